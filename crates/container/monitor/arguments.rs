//! The command line: `monitor key=value … [-- program argument…]`.

use crate::{
    sys::{Fd, Vector},
    text,
};
use core::ffi::CStr;

/// What the shim asks for. Keys that may be repeated (`cgroup`, `unlink`) stay in the vector, see [`Arguments::values`].
pub struct Arguments {
    vector: Vector,
    pub pid: i32,
    pub pidfd: Option<Fd>,
    pub adopted: bool,
    pub out: Option<Fd>,
    pub err: Option<Fd>,
    pub input: Option<Fd>,
    pub tty: bool,
    pub interactive: bool,
    pub listen: Option<Fd>,
    pub client: Option<Fd>,
    pub log: &'static CStr,
    pub max: u64,
    pub files: u64,
    pub exit: &'static CStr,
    pub sync: bool,
    pub oom: Option<&'static CStr>,
    /// What is executed at the very end; empty when nothing is.
    pub then: Vector,
}

/// The argument that is wrong, or the key that is missing.
pub struct Wrong(pub &'static CStr);

/// Smallest `max`, bytes: the rooms that rotation leaves unused at the end of a file must stay small beside it.
const SMALLEST_LOG: u64 = 4096;

impl Arguments {
    /// # Errors
    /// The first argument that is not understood, or the first required key that is missing.
    pub fn parse(mut vector: Vector) -> Result<Self, Wrong> {
        vector.next(); // the program's name
        let mut this = Self {
            vector: vector.clone(),
            pid: 0,
            pidfd: None,
            adopted: false,
            out: None,
            err: None,
            input: None,
            tty: false,
            interactive: false,
            listen: None,
            client: None,
            log: c"",
            max: 0,
            files: 0,
            exit: c"",
            sync: false,
            oom: None,
            then: vector.clone(),
        };
        for argument in vector.by_ref() {
            if argument == c"--" {
                break;
            }
            let (key, value) = split(argument).ok_or(Wrong(argument))?;
            this.set(key, value).ok_or(Wrong(argument))?;
        }
        this.then = vector;
        this.complete()
    }

    fn set(&mut self, key: &[u8], value: &'static CStr) -> Option<()> {
        let number = || text::number(value.to_bytes());
        let fd = || Some(Some(Fd(i32::try_from(number()?).ok()?)));
        let flag = || match value.to_bytes() {
            b"0" => Some(false),
            b"1" => Some(true),
            _ => None,
        };
        let path = || (!value.is_empty()).then_some(value);
        match key {
            b"pid" => self.pid = i32::try_from(number()?).ok()?,
            b"pidfd" => self.pidfd = fd()?,
            b"adopted" => self.adopted = flag()?,
            b"out" => self.out = fd()?,
            b"err" => self.err = fd()?,
            b"in" => self.input = fd()?,
            b"tty" => self.tty = flag()?,
            b"interactive" => self.interactive = flag()?,
            b"listen" => self.listen = fd()?,
            b"client" => self.client = fd()?,
            b"log" => self.log = path()?,
            b"max" => self.max = number().filter(|&max| max >= SMALLEST_LOG)?,
            b"files" => self.files = number().filter(|&files| files >= 1)?,
            b"exit" => self.exit = path()?,
            b"sync" => self.sync = flag()?,
            b"oom" => self.oom = Some(path()?),
            b"cgroup" | b"unlink" => drop(path()?),
            _ => return None,
        }
        Some(())
    }

    fn complete(self) -> Result<Self, Wrong> {
        let missing = [
            (self.pid <= 0, c"pid"),
            (self.adopted && self.pidfd.is_none(), c"pidfd"),
            (self.out.is_none(), c"out"),
            (self.log.is_empty(), c"log"),
            (self.max == 0, c"max"),
            (self.files == 0, c"files"),
            (self.exit.is_empty(), c"exit"),
        ];
        match missing.iter().find(|(is_missing, _)| *is_missing) {
            Some((_, key)) => Err(Wrong(key)),
            None => Ok(self),
        }
    }

    /// The values of a key that may be repeated, in order.
    pub fn values(&self, key: &'static [u8]) -> impl Iterator<Item = &'static CStr> {
        self.vector
            .clone()
            .take_while(|argument| *argument != c"--")
            .filter_map(move |argument| split(argument).filter(|(name, _)| *name == key).map(|(_, value)| value))
    }
}

fn split(argument: &'static CStr) -> Option<(&'static [u8], &'static CStr)> {
    let bytes = argument.to_bytes_with_nul();
    let equals = bytes.iter().position(|&byte| byte == b'=')?;
    let (key, value) = bytes.split_at_checked(equals)?;
    Some((key, CStr::from_bytes_with_nul(value.get(1..)?).ok()?))
}
