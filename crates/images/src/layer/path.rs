//! Names of strangers.

/// Why a name can not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It begins with a slash.
    #[error("its name is absolute")]
    Absolute,
    /// It has a component `..`.
    #[error("its name has a component `..`")]
    Parent,
    /// It has a NUL byte.
    #[error("its name has a NUL byte")]
    Nul,
    /// One component is longer than file systems allow.
    #[error("a component of its name is longer than 255 bytes")]
    ComponentTooLong,
    /// The whole is longer than the kernel allows.
    #[error("its name is longer than 4095 bytes")]
    TooLong,
    /// More folders in each other than anybody has.
    #[error("its name has more than 512 components")]
    TooDeep,
}

/// The components of a name within a tree, none of them empty, `.` or `..`; no component is the tree itself.
///
/// # Errors
/// The name leads out of the tree, or could not be a name on disk.
pub fn sanitise(name: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    // "/" alone is how some writers name the root directory, and can mean nothing else.
    if name.starts_with(b"/") && name != b"/" {
        return Err(PathError::Absolute);
    }
    if name.contains(&0) {
        return Err(PathError::Nul);
    }
    if name.len() > 4095 {
        return Err(PathError::TooLong);
    }
    let components: Vec<&[u8]> =
        name.split(|b| *b == b'/').filter(|component| !component.is_empty() && *component != b".").collect();
    if components.contains(&&b".."[..]) {
        return Err(PathError::Parent);
    }
    if components.iter().any(|component| component.len() > 255) {
        return Err(PathError::ComponentTooLong);
    }
    if components.len() > 512 {
        return Err(PathError::TooDeep);
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        ffi::OsStr,
        os::unix::ffi::OsStrExt,
        path::{Component, Path},
    };

    #[test]
    fn hostile_names_are_refused() {
        for (name, error) in [
            (&b"/etc/passwd"[..], PathError::Absolute),
            (b"//", PathError::Absolute),
            (b"..", PathError::Parent),
            (b"a/../../b", PathError::Parent),
            (b"./..", PathError::Parent),
            (b"a/..", PathError::Parent),
            (b"a\0b", PathError::Nul),
            (&[b'a'; 256], PathError::ComponentTooLong),
            (&b"aaa/".repeat(1024), PathError::TooLong),
            (&b"a/".repeat(513), PathError::TooDeep),
        ] {
            assert_eq!(sanitise(name), Err(error), "{}", name.escape_ascii());
        }
        for (name, components) in [
            (&b"/"[..], &[][..]),
            (b"./", &[]),
            (b".", &[]),
            (b"", &[]),
            (b"./a//b/./c/", &[&b"a"[..], b"b", b"c"][..]),
            (b"...", &[b"..."]),
            (b"..a/b..", &[b"..a", b"b.."]),
            (b"\xff\xfe", &[b"\xff\xfe"]),
        ] {
            assert_eq!(sanitise(name).as_deref(), Ok(components));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        /// The standard library's parser as the reference: same components, and never out of the tree.
        #[test]
        fn a_name_that_is_taken_stays_in_the_tree(name in "[a./\\x00\u{e9}]{0,24}") {
            let name = name.as_bytes();
            let path = Path::new(OsStr::from_bytes(name));
            let theirs: Vec<Component<'_>> = path.components().filter(|component| *component != Component::CurDir).collect();
            let inside = theirs.iter().all(|component| matches!(component, Component::Normal(_)));
            match sanitise(name) {
                Ok(_) if name == b"/" => {}
                Ok(components) => {
                    prop_assert!(inside);
                    let theirs: Vec<&[u8]> = theirs.iter().map(|component| component.as_os_str().as_bytes()).collect();
                    prop_assert_eq!(components, theirs);
                }
                Err(PathError::Nul) => prop_assert!(name.contains(&0)),
                Err(_) => prop_assert!(!inside),
            }
        }
    }
}
