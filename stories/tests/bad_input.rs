//! The program against what people, disks and strangers do to it: a clear sentence, exit code 1, nothing lost.

mod bad;

use bad::{PATIENCE, Yard, addresses, everything, files, only_owner};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use stories::chance::Chance;
use stories::process::wait_until;
use types::{ClusterId, Incarnation, NodeId};
use wire::Msg;
use wire::frame::FrameHeader;
use wire::hello::Hello;

/// Bytes that a seed decides.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let c = Chance::seeded(seed);
    let mut v: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| c.next().to_le_bytes()).collect();
    v.truncate(len);
    v
}

#[test]
fn folders_that_will_not_do() {
    let y = Yard::new("folders");
    fs::create_dir(y.at("full")).unwrap();
    fs::write(y.at("full/letter"), "mine").unwrap();
    fs::write(y.at("file"), "mine").unwrap();
    let a = y.address(0).to_string();
    let before = everything(&y.at(""));
    let makers: [&[&str]; 3] = [
        &["-c", "bad", "make-mds", "-I", "-a", &a, "-r"],
        &["-c", "bad", "-b", &a, "make-cs", "-r"],
        &["dev", "--dir"],
    ];
    for maker in makers {
        let on = |dir: &str| y.call(&maker.iter().copied().chain([dir]).collect::<Vec<_>>());
        on("full").refused(&["full", "not empty", "letter", "name a"]);
        on("file").refused(&["`file`", "name a new or empty folder"]);
        on("file/below").refused(&["`file/below`", "name a new or empty folder"]);
    }
    for (daemon, maker) in [("mdsd", "make-mds"), ("csd", "make-cs")] {
        y.call(&[daemon, "-r", "missing"]).refused(&["`missing` is no repository", &format!("`pstorage {maker}`")]);
        y.call(&[daemon, "-r", "full"]).refused(&["`full` is no repository", &format!("`pstorage {maker}`")]);
        y.call(&[daemon, "-r", "file"]).refused(&["`file/", "name a repository's folder"]);
    }
    assert_eq!(everything(&y.at("")), before, "nothing was added or removed");
    assert_eq!(fs::read(y.at("full/letter")).unwrap(), b"mine");

    // A folder that is in use already.
    y.call(&["-c", "bad", "make-mds", "-I", "-a", &a, "-r", "mds"]).good();
    let before = files(&y.at("mds"));
    for maker in makers {
        let said = y.call(&maker.iter().copied().chain(["mds"]).collect::<Vec<_>>());
        said.refused(&["folder `mds` is not empty"]);
    }
    y.call(&["csd", "-r", "mds"]).refused(&["`mds` is no repository"]);
    assert_eq!(files(&y.at("mds")), before);
}

#[test]
fn wrong_names_and_clusters() {
    let mut y = Yard::new("names");
    let (a, b) = (y.address(0).to_string(), y.address(1).to_string());
    for name in ["two words", "a/b", "../x", ""] {
        y.call(&["-c", name, "make-mds", "-I", "-a", &a, "-r", "m"]).refused(&["cluster name", "use 1 to 63"]);
    }
    y.call(&["make-mds", "-I", "-a", &a, "-r", "m"]).refused(&["which cluster?", "-c NAME"]);
    y.call(&["-c", "x", "make-mds", "-I", "-a", "300.1.2.3", "-r", "m"]).refused(&["300.1.2.3"]);
    y.call(&["-c", "x", "make-mds", "-I", "-a", &format!("{a}:65535"), "-r", "m"]).refused(&["two consecutive ports"]);
    y.call(&["-c", "x", "make-mds", "-I", "-a", &a, "-r", "m", "--replicas", "2:3"]).refused(&["2:3", "as 3:2"]);
    y.call(&["-c", "nowhere", "status"]).refused(&["`nowhere` is not known", "-b ADDR"]);
    y.call(&["-c", "x", "-b", &a, "make-cs", "-r", "cs", "--journal", "7"]).refused(&["--journal 7", "at least"]);
    assert!(!y.at("m").exists(), "nothing was begun");
    y.call(&["-c", "x", "make-mds", "-a", &a, "-r", "m"]).refused(&["`x` is not known", "-b ADDR"]);
    assert!(everything(&y.at("m")).is_empty(), "failed attempts leave an empty folder");

    y.found("one", "mds-a", 0);
    y.make_cs("two", "cs", 0, 2).refused(&["belongs to cluster `one`, not `two`", "name the cluster"]);
    let said = y.ask("two", 0, &["status"]).refused(&["belongs to cluster `one`, not `two`"]);
    assert!(said.took < Duration::from_secs(3), "a definite answer is not asked for again and again: {:?}", said.took);
    y.ask("one", 1, &["make-cs", "-r", "cs"])
        .refused(&["no metadata server of cluster `one` answers", "is it running"]);
    assert!(everything(&y.at("cs")).is_empty(), "failed attempts leave an empty folder");
    y.make_cs("one", "cs", 0, 2).good();

    // Another cluster of the same name at the address where the server looks for its own.
    y.found("one", "mds-b", 1);
    let text = fs::read_to_string(y.at("cs/cs.json")).unwrap();
    fs::write(y.at("cs/cs.json"), text.replace(&format!("{a}:"), &format!("{b}:"))).unwrap();
    let before = files(&y.at("cs"));
    y.call(&["csd", "-r", "cs"]).refused(&["chunk server 1025", "another id", "not its cluster"]);
    assert_eq!(files(&y.at("cs")), before);
    // And of another name.
    fs::write(y.at("cs/cs.json"), text.replace("\"one\"", "\"two\"")).unwrap();
    y.call(&["csd", "-r", "cs"]).refused(&["chunk server 1025", "belongs to cluster `one`, not `two`"]);
    fs::write(y.at("cs/cs.json"), text).unwrap();
    y.start("cs", &["csd", "-r", "cs"], "listens at");
    y.wait_servers("one", 0, 1);
    y.ask("one", 0, &["fs", "mkdir", "/there"]).good();
}

/// What is done to a file.
enum Harm<'a> {
    /// Bytes turned over.
    Flip(u64, usize),
    /// Cut to a length.
    Cut(u64),
    /// Taken away.
    Take,
    /// A text put in the place of another.
    Text(&'a str, &'a str),
}

/// Harms a file, sees that the daemon refuses with `words` and takes nothing away, and puts the file back.
fn harm(y: &Yard, daemon: &str, repo: &str, file: &str, harm: &Harm<'_>, words: &[&str]) {
    let path = y.at(repo).join(file);
    let aside = y.at("aside");
    let before = files(&y.at(repo));
    fs::rename(&path, &aside).unwrap();
    match harm {
        Harm::Flip(at, len) => {
            fs::copy(&aside, &path).unwrap();
            let f = fs::File::options().read(true).write(true).open(&path).unwrap();
            let mut b = vec![0; *len];
            std::os::unix::fs::FileExt::read_exact_at(&f, &mut b, *at).unwrap();
            b.iter_mut().for_each(|x| *x ^= 0xff);
            std::os::unix::fs::FileExt::write_all_at(&f, &b, *at).unwrap();
        }
        Harm::Cut(len) => {
            let mut head = vec![];
            fs::File::open(&aside).unwrap().take(*len).read_to_end(&mut head).unwrap();
            fs::write(&path, head).unwrap();
        }
        Harm::Take => {}
        Harm::Text(from, to) => {
            let text = fs::read_to_string(&aside).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replace(from, to)).unwrap();
        }
    }
    let harmed = files(&y.at(repo));
    y.call(&[daemon, "-r", repo]).refused(words);
    assert_eq!(files(&y.at(repo)), harmed, "{file}: something was removed, added or cut");
    fs::rename(&aside, &path).unwrap();
    assert_eq!(files(&y.at(repo)), before);
}

#[test]
fn damaged_repositories() {
    let mut y = Yard::new("damage");
    y.found("bad", "mds", 0);
    y.make_cs("bad", "cs", 0, 1).good();
    y.start("cs", &["csd", "-r", "cs"], "listens at");
    y.wait_servers("bad", 0, 1);
    fs::write(y.at("content"), noise(1, 300_000)).unwrap();
    y.ask("bad", 0, &["fs", "put", "-q", "content", "/content"]).good();
    y.stop("cs");
    y.stop("mds");

    let replace = "replace this disk";
    let cs: [(&str, Harm<'_>, &[&str]); 15] = [
        ("store/super", Harm::Flip(20, 8160), &["chunk server 1025", "both superblocks", replace]),
        ("store/super", Harm::Cut(100), &["`super`", "shorter than two slots", replace]),
        ("store/super", Harm::Take, &["super", "No such file", "restore the file"]),
        ("store/journal", Harm::Cut(1_000_000), &["`journal` has 1000000 bytes", "restore the file"]),
        ("store/journal", Harm::Take, &["journal", "No such file", "restore the file"]),
        ("store/seg-00000", Harm::Cut(5000), &["`seg-00000` has 5000 bytes", "restore the file"]),
        ("store/map", Harm::Flip(4096, 131_072), &["bitmap", "does not match its checksum", replace]),
        ("cs.json", Harm::Flip(30, 1), &["`cs/cs.json` is damaged", "restore it"]),
        ("cs.json", Harm::Cut(40), &["`cs/cs.json` is damaged", "restore it"]),
        ("cs.json", Harm::Cut(0), &["`cs/cs.json` is damaged", "restore it"]),
        ("cs.json", Harm::Text("ring_bytes", "wrong_bytes"), &["`cs/cs.json` is damaged", "wrong_bytes"]),
        ("cs.json", Harm::Text("\"version\": 1", "\"version\": 9"), &["version 9", "reads 1", "start the program"]),
        ("cs.json", Harm::Text("\"id\": 1025", "\"id\": 1026"), &["chunk server 1025, not 1026", "check the path"]),
        ("cs.json", Harm::Text("cluster_id\": \"", "cluster_id\": \"zz"), &["is damaged", "is no cluster id"]),
        ("cs.json", Harm::Text("127.", "one hundred."), &["is damaged", "is no address"]),
    ];
    for (file, what, words) in &cs {
        harm(&y, "csd", "cs", file, what, words);
    }
    let text = fs::read_to_string(y.at("mds/mds.json")).unwrap();
    let id = text.split("cluster_id\": \"").nth(1).unwrap()[..32].to_string();
    let other: String = id.chars().rev().collect();
    let peers = "leave it stopped and keep the folder";
    let snapshot = "store/snap-0000000000000001-00000001";
    let mds: [(&str, Harm<'_>, &[&str]); 13] = [
        ("store/super", Harm::Flip(20, 8160), &["metadata server 1", "`super` is damaged", peers]),
        ("store/super", Harm::Cut(100), &["`super` is damaged", "too short", peers]),
        ("store/super", Harm::Take, &["`super` is missing", "make-mds"]),
        ("store/log-00000001", Harm::Flip(10, 8), &["`log-00000001` is damaged at byte 0", peers]),
        (
            "store/log-00000001",
            Harm::Flip(12_310, 8),
            &["`log-00000001` is damaged at byte 12288", "from index 3", peers],
        ),
        ("store/log-00000001", Harm::Cut(12_288), &["`log-00000001` is damaged", peers]),
        ("store/log-00000001", Harm::Cut(0), &["`log-00000001` is damaged", peers]),
        (snapshot, Harm::Flip(50, 8), &["snap-0000000000000001", "is damaged", peers]),
        (snapshot, Harm::Take, &["snap-0000000000000001", "the file is missing", peers]),
        ("mds.json", Harm::Flip(30, 1), &["`mds/mds.json` is damaged", "restore it"]),
        ("mds.json", Harm::Cut(40), &["`mds/mds.json` is damaged", "restore it"]),
        ("mds.json", Harm::Text("\"id\": 1,", "\"id\": 2,"), &["belongs to MDS 1, not 2", "check the path"]),
        ("mds.json", Harm::Text(&id, &other), &["belongs to cluster", "check the path"]),
    ];
    for (file, what, words) in &mds {
        harm(&y, "mdsd", "mds", file, what, words);
    }
    for (daemon, repo) in [("csd", "cs"), ("mdsd", "mds")] {
        fs::rename(y.at(repo).join("store"), y.at("aside")).unwrap();
        y.call(&[daemon, "-r", repo]).refused(&["store` is missing", "restore it"]);
        fs::write(y.at(repo).join("store"), "").unwrap();
        y.call(&[daemon, "-r", repo]).refused(&["/store`", "Not a directory", "restore it"]);
        fs::remove_file(y.at(repo).join("store")).unwrap();
        fs::rename(y.at("aside"), y.at(repo).join("store")).unwrap();
    }

    // With everything back in its place all is there again.
    y.start("mds", &["mdsd", "-r", "mds"], "leading in term");
    y.start("cs", &["csd", "-r", "cs"], "listens at");
    y.wait_servers("bad", 0, 1);
    y.ask("bad", 0, &["fs", "get", "-q", "/content", "back"]).good();
    assert!(fs::read(y.at("back")).unwrap() == noise(1, 300_000));
}

#[test]
fn one_daemon_a_folder_and_a_port() {
    let mut y = Yard::new("ports");
    let (a, b) = (y.address(0), y.address(1));
    y.call(&["-c", "bad", "make-mds", "-I", "-a", &a.to_string(), "-r", "mds"]).good();
    for port in [2510, 2511] {
        let _taken = TcpListener::bind((a, port)).unwrap();
        let here = format!("{a}:{port}");
        y.call(&["mdsd", "-r", "mds"]).refused(&["metadata server 1", &here, "in use", "stop it or choose another"]);
    }
    y.start("mds", &["mdsd", "-r", "mds"], "leading in term");
    let own = y.process("mds").pid().to_string();
    y.call(&["mdsd", "-r", "mds"]).refused(&["`mds` is in use by process", &own, "stop that process"]);

    y.make_cs("bad", "cs", 0, 1).good();
    let text = fs::read_to_string(y.at("cs/cs.json")).unwrap();
    let taken = TcpListener::bind((b, 0)).unwrap();
    let here = taken.local_addr().unwrap().to_string();
    fs::write(y.at("cs/cs.json"), text.replace(&format!("{b}:0"), &here)).unwrap();
    y.call(&["csd", "-r", "cs"]).refused(&["chunk server 1025", &here, "in use", "stop it or choose another"]);
    // An address of documentation, which no host has.
    fs::write(y.at("cs/cs.json"), text.replace(&format!("{b}:0"), "192.0.2.1:7")).unwrap();
    y.call(&["csd", "-r", "cs"]).refused(&["192.0.2.1:7", "no interface of this host has that address"]);
    fs::write(y.at("cs/cs.json"), text).unwrap();
    y.start("cs", &["csd", "-r", "cs"], "listens at");
    let own = y.process("cs").pid().to_string();
    y.call(&["csd", "-r", "cs"]).refused(&["`cs` is in use by process", &own, "stop that process"]);
    y.wait_servers("bad", 0, 1);
    y.ask("bad", 0, &["fs", "mkdir", "/still-served"]).good();
}

#[test]
fn missing_permissions() {
    let mut y = Yard::new("rights");
    let (a, b) = (y.address(0).to_string(), y.address(1).to_string());
    y.call(&["-c", "bad", "make-mds", "-I", "-a", &a, "-r", "mds"]).good();
    y.call(&["-c", "bad", "make-mds", "-I", "-a", &b, "-r", "closed"]).good();
    fs::create_dir(y.at("own")).unwrap();
    if !y.as_nobody() {
        // Without root there is nobody else to be: rights are taken from oneself.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(y.at("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        y.call(&["mdsd", "-r", "closed"]).refused(&["closed/mds.json", "ermission", "user"]);
        fs::set_permissions(y.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        return;
    }
    only_owner(&y.at("closed"));
    let before = (files(&y.at("mds")), files(&y.at("closed")));
    y.call(&["mdsd", "-r", "mds"]).refused(&["mds/lock", "ermission denied", "must exist, be writable"]);
    y.call(&["mdsd", "-r", "closed"]).refused(&["closed/mds.json", "ermission denied", "as the user"]);
    y.call(&["-c", "x", "make-mds", "-I", "-a", &a, "-r", "own/new"]).refused(&[
        "`own/new`",
        "ermission denied",
        "name a",
    ]);
    y.call(&["-c", "x", "-b", &a, "make-cs", "-r", "own/new"]).refused(&["`own/new`", "ermission denied", "name a"]);
    y.call(&["dev", "--dir", "own/new"]).refused(&["`own/new`", "ermission denied", "name a"]);
    assert_eq!((files(&y.at("mds")), files(&y.at("closed"))), before);
    y.as_oneself();
    y.start("mds", &["mdsd", "-r", "mds"], "leading in term");
}

/// One connection of a stranger, in one of many ways. What the server makes of it is its own affair.
fn knock(to: SocketAddr, n: u64, hello: &Hello) -> std::io::Result<()> {
    let c = Chance::of(&[n, u64::from(to.port())]);
    let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    s.set_write_timeout(Some(Duration::from_millis(200)))?;
    let frame = |h: &Hello| Msg::Hello(Box::new(h.clone())).encode().head.to_vec();
    let mut mine = hello.clone();
    mine.node = NodeId::Client(Incarnation(c.next() | 1));
    let good = frame(&mine);
    // A frame that is whole in all its checksums, of a kind and content that chance decides.
    let odd = |body: &[u8]| {
        let (opcode, payload_len) = (c.below(12) as u16, if c.one_in(3) { 4096 } else { 0 });
        let body_len = body.len() as u32;
        let mut v = FrameHeader { opcode, body_len, payload_len, body_crc: checksum::crc32c(body) }.encode().to_vec();
        v.extend_from_slice(body);
        v.resize(v.len() + payload_len as usize, 7);
        v
    };
    let huge = FrameHeader { opcode: 5, body_len: 80 << 20, payload_len: 17 << 20, body_crc: 1 }.encode();
    let bytes = match n % 9 {
        0 => noise(n, c.below(5000) as usize),
        1 => good[..c.below(good.len() as u64) as usize].to_vec(),
        2 => [good, noise(n, 1 + c.below(3000) as usize)].concat(),
        3 => [good, odd(&noise(n, c.below(200) as usize)), odd(&[0; 12])].concat(),
        4 => huge.to_vec(),
        5 => [&good[..], &huge[..], &noise(n, 100_000)].concat(),
        6 => {
            match c.below(4) {
                0 => mine.name = "another".into(),
                1 => mine.cluster = ClusterId(1),
                2 => mine.incompat = 1 << 40,
                _ => (mine.min, mine.max) = (7, 9),
            }
            frame(&mine)
        }
        7 => {
            let mut v = good.clone();
            let at = c.below(v.len() as u64) as usize;
            v[at] ^= 1 << c.below(8);
            v
        }
        _ => [&good[..], &good[..], &good[..]].concat(),
    };
    s.write_all(&bytes)?;
    if c.one_in(2) {
        s.set_read_timeout(Some(Duration::from_millis(5)))?;
        let _ = s.read(&mut [0; 512])?;
    }
    Ok(())
}

#[test]
fn strangers_at_every_port() {
    let mut y = Yard::new("strangers");
    // As root, `dev` would write the cluster's name into the machine's configuration.
    y.as_nobody();
    let name = format!("bad-{}", std::process::id());
    y.start("dev", &["dev", "--name", &name, "--dir", "dev"], " is ready ");
    y.call(&["dev", "--name", &name, "--dir", "dev"]).refused(&["`dev` is in use by process", "stop that process"]);
    let mut ports: Vec<SocketAddr> = addresses(&y.at("dev/mds1/mds.json"));
    let clients: Vec<SocketAddr> = ports.iter().map(|a| SocketAddr::new(a.ip(), a.port() + 1)).collect();
    ports.extend(clients);
    for i in 1..=3 {
        let own = addresses(&y.at(&format!("dev/cs{i}/cs.json")));
        ports.push(own[0]);
    }
    assert_eq!(ports.len(), 9, "{ports:?}");
    let id = fs::read_to_string(y.at("dev/mds1/mds.json")).unwrap();
    let id = id.split("\"cluster_id\": \"").nth(1).and_then(|t| u128::from_str_radix(&t[..32], 16).ok()).unwrap();
    let hello = Hello::new(ClusterId(id), &name, NodeId::Client(Incarnation(1)), Incarnation(1));

    let over = AtomicBool::new(false);
    let knocks = AtomicU32::new(0);
    let mut rounds = 0;
    std::thread::scope(|s| {
        for t in 0..2 {
            let (ports, hello, over, knocks) = (&ports, &hello, &over, &knocks);
            s.spawn(move || {
                for n in (t..).step_by(2) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    // A server that closes early is what is wanted.
                    let _ = knock(ports[n as usize % ports.len()], n / ports.len() as u64, hello);
                    knocks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let judge = || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(8) || rounds < 3 {
                rounds += 1;
                fs::write(y.at("data/one"), noise(rounds, 400_000 + rounds as usize)).unwrap();
                let to = format!("/file-{rounds}");
                y.call(&["-c", &name, "fs", "put", "-q", "data/one", &to]).good();
                y.call(&["-c", &name, "fs", "get", "-q", &to, "data/back"]).good();
                assert!(fs::read(y.at("data/back")).unwrap() == noise(rounds, 400_000 + rounds as usize));
                fs::remove_file(y.at("data/back")).unwrap();
            }
        };
        fs::create_dir_all(y.at("data")).unwrap();
        std::os::unix::fs::chown(y.at("data"), owner(&y.at("dev")), None).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge));
        over.store(true, Ordering::Relaxed);
        if let Err(e) = result {
            std::panic::resume_unwind(e);
        }
    });
    println!("{} knocks at {} ports, {rounds} files beside them", knocks.load(Ordering::Relaxed), ports.len());
    let said = y.process("dev").output().unwrap();
    assert!(!said.contains("starting it again"), "a server ended: {said}");
    for log in files(&y.at("dev")).into_keys().filter(|p| p.extension().is_some_and(|e| e == "log")) {
        let text = fs::read_to_string(&log).unwrap();
        assert!(!text.contains("panicked"), "{}: {text}", log.display());
    }
    y.stop("dev");
}
fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|m| m.uid())
}

/// Puts files until one is refused; returns how many are whole.
fn fill(y: &Yard, name: &str, prefix: &str, words: &[&str]) -> u64 {
    for n in 0..40 {
        fs::write(y.at("piece"), noise(n, 6_000_000)).unwrap();
        let said = y.ask(name, 0, &["fs", "put", "-q", "piece", &format!("/{prefix}{n}")]);
        if said.code != Some(0) {
            assert!(said.took < Duration::from_secs(15), "refused only after {:?}", said.took);
            said.refused(words);
            return n;
        }
    }
    panic!("the disk never became full");
}
#[track_caller]
fn same(y: &Yard, name: &str, path: &str, seed: u64) {
    y.ask(name, 0, &["fs", "get", "-q", path, "back"]).good();
    assert!(fs::read(y.at("back")).unwrap() == noise(seed, 6_000_000), "{path} came back differently");
    fs::remove_file(y.at("back")).unwrap();
}

#[test]
fn a_full_disk() {
    let mut y = Yard::new("space");
    if !y.small_disk("disk", 152) {
        return;
    }
    y.found("bad", "mds", 0);
    y.make_cs("bad", "disk/cs", 0, 1).good();
    y.start("cs", &["csd", "-r", "disk/cs"], "listens at");
    y.wait_servers("bad", 0, 1);

    // The cluster fills it itself.
    let whole = fill(&y, "bad", "file", &["free space"]);
    assert!(whole >= 3, "full after {whole} files");
    for n in 0..whole {
        same(&y, "bad", &format!("/file{n}"), n);
    }
    for n in 0..=whole {
        y.ask("bad", 0, &["fs", "rm", &format!("/file{n}")]);
    }
    let put = |y: &Yard, to: &str| y.ask("bad", 0, &["fs", "put", "-q", "piece", to]);
    wait_until("space comes back", PATIENCE, || put(&y, "/again").code == Some(0)).unwrap();

    // Somebody else fills it.
    fs::write(y.at("piece"), noise(77, 6_000_000)).unwrap();
    y.ask("bad", 0, &["fs", "rm", "/again"]).good();
    wait_until("a file is taken", PATIENCE, || put(&y, "/kept").code == Some(0)).unwrap();
    let mut hog = fs::File::create(y.at("disk/hog")).unwrap();
    while hog.write_all(&[1; 1 << 16]).is_ok() {}
    let whole = fill(&y, "bad", "more", &["free space"]);
    same(&y, "bad", "/kept", 77);
    y.stop("cs");
    y.start("cs", &["csd", "-r", "disk/cs"], "listens at");
    y.wait_servers("bad", 0, 1);
    same(&y, "bad", "/kept", 77);
    (0..whole).for_each(|n| same(&y, "bad", &format!("/more{n}"), n));
    drop(hog);
    fs::remove_file(y.at("disk/hog")).unwrap();
    for n in 0..=whole {
        y.ask("bad", 0, &["fs", "rm", &format!("/more{n}")]);
    }
    wait_until("service resumes", PATIENCE, || put(&y, "/resumed").code == Some(0)).unwrap();
    same(&y, "bad", "/kept", 77);
}
