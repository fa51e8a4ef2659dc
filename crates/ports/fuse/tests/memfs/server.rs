//! A thread that serves a [`MemFs`] on a mount point of its own.

use super::MemFs;
use fuse::device::{Device, DeviceQueue, QueueConfig};
use fuse::init::{self, Features, Wishes};
use fuse::mount::{self, Mount};
use fuse::options::Options;
use fuse::queue::{Queue, QueueError};
use host::wake::Waker;
use rustix::event::{PollFd, PollFlags, poll};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Can anything be mounted here? Says why not.
pub fn possible() -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        eprintln!("skipped: this host has no /dev/fuse");
    }
    there
}

/// An empty directory.
pub fn folder() -> PathBuf {
    let n = SERIAL.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("fuse-test-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

pub struct Server {
    pub fs: Arc<Mutex<MemFs>>,
    pub mount: Mount,
    pub device: Device,
    pub features: Features,
    pub point: PathBuf,
    stop: Waker,
    thread: Option<JoinHandle<(QueueError, (u64, u64))>>,
}

pub fn config() -> QueueConfig {
    QueueConfig { readers: 1, wake_after: 4, buffers: 16, ..QueueConfig::default() }
}

impl Server {
    pub fn start(fs: MemFs) -> Server {
        Server::with(fs, &Options::default(), &config(), &Wishes::default())
    }
    pub fn with(fs: MemFs, options: &Options, config: &QueueConfig, wishes: &Wishes) -> Server {
        Server::on(folder(), fs, options, config, wishes)
    }
    pub fn on(point: PathBuf, fs: MemFs, options: &Options, config: &QueueConfig, wishes: &Wishes) -> Server {
        let (mount, device) = mount::mount(&point, options, &mut |line| eprintln!("{line}")).unwrap();
        Server::mounted(mount, device, fs, config, wishes)
    }
    /// Serves what was mounted elsewhere.
    pub fn mounted(mount: Mount, device: Device, fs: MemFs, config: &QueueConfig, wishes: &Wishes) -> Server {
        let point = mount.point().to_path_buf();
        let mut queue = DeviceQueue::new(device.clone(), config).unwrap();
        let features = init::handshake(&mut queue, wishes, Duration::from_secs(10)).unwrap();
        let fs = Arc::new(Mutex::new(fs));
        let stop = Waker::new().unwrap();
        let (shared, bell) = (fs.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let end = serve(&shared, &mut queue, &bell);
            (end, queue.helped())
        });
        Server { fs, mount, device, features, point, stop, thread: Some(thread) }
    }
    /// Unmounts; returns how, and what helpers did.
    pub fn end(mut self) -> (mount::Unmounted, (u64, u64)) {
        let how = self.mount.unmount().unwrap();
        let (end, helped) = self.thread.take().unwrap().join().unwrap();
        assert_eq!(end, QueueError::Unmounted);
        let _ = std::fs::remove_dir(&self.point);
        (how, helped)
    }
    /// Waits until the queue ends by itself.
    pub fn join(&mut self) -> QueueError {
        self.thread.take().unwrap().join().unwrap().0
    }
    /// The server goes away without unmounting or answering.
    pub fn desert(&mut self) {
        self.stop.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.mount.unmount();
        if let Some(thread) = self.thread.take() {
            self.stop.wake();
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir(&self.point);
    }
}

fn serve(fs: &Mutex<MemFs>, queue: &mut DeviceQueue, stop: &Waker) -> QueueError {
    loop {
        match turn(fs, queue) {
            Ok(()) => {}
            Err(e) => return e,
        }
        let mut fds = [PollFd::new(queue, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if poll(&mut fds, None).is_ok() && !fds[1].revents().is_empty() {
            return QueueError::Unmounted;
        }
    }
}

fn turn(fs: &Mutex<MemFs>, queue: &mut DeviceQueue) -> Result<(), QueueError> {
    while let Some(incoming) = queue.receive()? {
        fs.lock().unwrap().serve(incoming, queue)?;
    }
    queue.commit()
}
