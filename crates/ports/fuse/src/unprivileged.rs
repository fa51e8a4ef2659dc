//! Mounting as an ordinary user, through the set-user-id program `fusermount3`.

use crate::mount_error::{MountCause, MountError};
use crate::options::Options;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = "fusermount3";

/// Mounts on `point` and gives the descriptor that the program sent.
pub(crate) fn mount(point: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let fail = |e: rustix::io::Errno| MountError::system(point, "mount on", e);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(fail)?;
    let text = options.helper_text();
    // Its end of the socket is its standard input, so that no descriptor must survive an exec by accident.
    let args = [OsStr::new("-o"), OsStr::new(&text), OsStr::new("--"), point.as_os_str()];
    run(point, &args, Stdio::from(theirs))?;
    let fd = receive(&ours).map_err(|e| MountError::system(point, "take over the mount on", e))?;
    let flags = fcntl_getfl(&fd).map_err(fail)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(fail)?;
    Ok(fd)
}

/// Unmounts `point`; lazily: from the tree now, in full when its last user is gone.
pub(crate) fn unmount(point: &Path, lazily: bool) -> Result<(), MountError> {
    let how = if lazily { "-uz" } else { "-u" };
    run(point, &[OsStr::new(how), OsStr::new("--"), point.as_os_str()], Stdio::null())
}

fn run(point: &Path, args: &[&OsStr], stdin: Stdio) -> Result<(), MountError> {
    let mut command = Command::new(PROGRAM);
    command.args(args).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).env("_FUSE_COMMFD", "0");
    // Its words become part of ours.
    command.env("LC_ALL", "C");
    let out = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => MountError::new(point, MountCause::NotPermitted),
        _ => MountError::system(point, "start fusermount3 for", e),
    })?;
    if out.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr);
    let words = words.trim().trim_start_matches("fusermount3: ");
    let words = if words.is_empty() { out.status.to_string() } else { words.replace('\n', "; ") };
    if words.contains("/dev/fuse") && words.contains("No such") {
        return Err(MountError::new(point, MountCause::NoDevice));
    }
    Err(MountError::new(point, MountCause::Helper(words)))
}

/// The one descriptor in the one message that comes.
fn receive(socket: &OwnedFd) -> Result<OwnedFd, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC))
        .map_err(|e| e.to_string())?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err("fusermount3 sent no descriptor; is it the program of libfuse 3?".into())
}
