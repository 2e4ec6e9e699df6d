//! The client end of a monitor's socket.
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::{io, os::fd::{AsFd, BorrowedFd, OwnedFd}, path::Path};
/// Client.
#[derive(Debug)]
pub struct Client(OwnedFd);
/// Event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event { Stdout(Vec<u8>), Stderr(Vec<u8>), Exited { status: i32, oom: bool }, Closed }
#[allow(missing_docs)]
impl Client {
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self(fd))
    }
    pub fn from_fd(fd: OwnedFd) -> Self { Self(fd) }
    fn send(&self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let packet = [&[kind], payload].concat();
        net::send(&self.0, &packet, SendFlags::NOSIGNAL)?;
        Ok(())
    }
    pub fn send_stdin(&self, data: &[u8]) -> io::Result<()> {
        data.chunks(16384).try_for_each(|chunk| self.send(0, chunk))
    }
    pub fn send_eof(&self) -> io::Result<()> { self.send(5, &[]) }
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        self.send(4, &[rows.to_le_bytes(), cols.to_le_bytes()].concat())
    }
    pub fn receive(&self) -> io::Result<Event> {
        let mut buffer = vec![0; 16385];
        let (n, _) = net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        buffer.truncate(n);
        Ok(match buffer.first() {
            None => Event::Closed,
            Some(1) => Event::Stdout(buffer.split_off(1)),
            Some(2) => Event::Stderr(buffer.split_off(1)),
            Some(3) if n == 6 => Event::Exited { status: i32::from_le_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]), oom: buffer[5] != 0 },
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}
impl AsFd for Client { fn as_fd(&self) -> BorrowedFd<'_> { self.0.as_fd() } }
