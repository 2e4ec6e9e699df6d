//! What can be wrong with a profile.

use super::capability::CapabilityError;

/// A profile that cannot be read, or asks for what cannot be done. Fields are named as the profile writes them, with
/// positions from 0: `syscalls[2].args[0].index`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// Not JSON, or JSON of another shape.
    #[error("seccomp profile, line {}, column {}: not what a profile has there", source.line(), source.column())]
    Json {
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// Two fields of which one must be chosen.
    #[error("seccomp profile: `{field}` gives both `{one}` and `{other}`; keep one of them")]
    Both {
        /// Where; empty at the top.
        field: String,
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A rule for no system call.
    #[error("seccomp profile: `{field}` names no system call; write at least one in `names`")]
    NoNames {
        /// The rule or the name.
        field: String,
    },
    /// User space would have to answer.
    #[error(
        "seccomp profile: `{field}` asks a listener in user space to decide, which is not supported; use SCMP_ACT_ERRNO, SCMP_ACT_LOG or SCMP_ACT_TRACE"
    )]
    Listener {
        /// Which field.
        field: String,
    },
    /// An error number out of range.
    #[error("seccomp profile: `{field}` is {value}; the largest possible is {largest}")]
    ErrnoRange {
        /// Which field.
        field: String,
        /// What it holds.
        value: u32,
        /// The kernel's limit for this action.
        largest: u32,
    },
    /// An error number for an action that returns none.
    #[error(
        "seccomp profile: `{field}` is given, but action {action} returns no number; drop it, or use SCMP_ACT_ERRNO"
    )]
    ErrnoUnused {
        /// Which field.
        field: String,
        /// The action beside it.
        action: String,
    },
    /// A system call has six arguments.
    #[error("seccomp profile: `{field}` is {index}; system calls have the arguments 0 to 5")]
    ArgumentIndex {
        /// Which field.
        field: String,
        /// What it holds.
        index: usize,
    },
    /// No capability of that name.
    #[error("seccomp profile: `{field}` does not name a capability")]
    Capability {
        /// Which field.
        field: String,
        /// What it holds.
        #[source]
        source: CapabilityError,
    },
    /// Not a kernel version.
    #[error("seccomp profile: `{field}` is `{text}`; write a kernel version as two numbers, like 5.15")]
    KernelVersion {
        /// Which field.
        field: String,
        /// What it holds.
        text: String,
    },
    /// The kernel takes 4096 instructions.
    #[error(
        "seccomp profile: compiles to {instructions} instructions, and the kernel takes at most {largest}; use fewer argument rules"
    )]
    TooLong {
        /// Of the compiled program.
        instructions: usize,
        /// The kernel's limit, `BPF_MAXINSNS`.
        largest: usize,
    },
}
