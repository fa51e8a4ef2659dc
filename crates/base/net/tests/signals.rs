//! SIGTERM ends a loop in good order. Alone in its file: signals belong to the process.

mod loops;
use loops::*;
use net::Loop;

#[test]
fn sigterm_stops_the_loop() {
    let (c, _) = config(hello(client(1), 1));
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    net::stop_on_signals(&it.stop_handle()).unwrap();
    let thread = std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let kill = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
        assert!(kill.unwrap().success());
    });
    let start = std::time::Instant::now();
    it.run().unwrap();
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
    thread.join().unwrap();
}
