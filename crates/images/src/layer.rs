//! Layers: unpacked for containers, packed from what containers changed.
//!
//! A layer on disk is an overlay lower directory: a whiteout is a character device 0:0, an opaque directory has the
//! attribute `trusted.overlay.opaque`. Owners are the image's own numbers; the engine maps them at mount time.
//!
//! Unpacking is one `syncfs` for all layers of an image, then the marker `complete` and the rename to the final name. A
//! layer without marker is nothing.

mod apply;
mod error;
mod meter;
mod pack;
mod path;
mod stream;
mod tree;
mod unpack;

pub(crate) use pack::pack_stream;
pub(crate) use stream::{Encoding, decoder};
pub(crate) use unpack::marker;

pub use error::{Refusal, UnpackError};
pub use meter::Limits;
pub use pack::{Compression, PackError, PackOptions, Packed, pack};
pub use path::{PathError, sanitise};
pub use unpack::UnpackOptions;

/// Which device nodes an archive may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Devices {
    /// None.
    Refuse,
    /// Those that give access to nothing: `null`, `zero`, `full`, `random`, `urandom`, `tty`, `console`, `ptmx`, as root
    /// file systems made by distributions have them.
    #[default]
    Harmless,
    /// Any. The archive must come from whoever may use every device of the machine.
    Any,
}

impl Devices {
    /// Whether a node may be made.
    pub fn allow(self, block: bool, device: (u32, u32)) -> bool {
        match self {
            Self::Refuse => false,
            Self::Harmless => !block && matches!(device, (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2)),
            // 0:0 would be taken for a whiteout.
            Self::Any => block || device != (0, 0),
        }
    }
}

/// What makes a name a whiteout.
const WHITEOUT: &[u8] = b".wh.";
/// What makes a directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The attribute of an opaque directory.
const OPAQUE_ATTRIBUTE: &std::ffi::CStr = c"trusted.overlay.opaque";

/// Whether an extended attribute is part of an image. Others say something about the machine they were made on
/// (`security.selinux`, `security.ima`), or would tell the kernel's overlay to look elsewhere (`trusted.overlay.*`).
fn keeps_attribute(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}
