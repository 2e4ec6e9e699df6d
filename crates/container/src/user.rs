//! Users and groups by name or number, as the container's own `/etc/passwd` and `/etc/group` have them.
//!
//! Works on the text of the two files, so the container's init can use it inside the container's root. The rules are
//! those of Docker and runc: the first matching entry counts; a number needs no entry and then belongs to group 0; an
//! explicit group replaces the supplementary groups; an entry that can not be read is no entry.

use std::{os::unix::ffi::OsStrExt, path::PathBuf};

/// Bytes of each file to read at most; what comes after is not looked at.
pub const MAX_FILE: u64 = 4 << 20;
/// Most supplementary groups that a process can have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups in the order found, each once.
    pub groups: Vec<u32>,
    /// Home directory; `/` when there is no entry or it names none. `HOME` is this unless the environment has one.
    pub home: PathBuf,
}

/// A user or group can not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The text is not `USER[:GROUP]`.
    #[error("`{text}` is not a user: {why}; write USER[:GROUP] by name or number")]
    Malformed {
        /// The text as given.
        text: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// There is no such entry.
    #[error("there is no user `{name}` in the container's /etc/passwd; give a number, or add the user to the image")]
    UnknownUser {
        /// The name as given.
        name: String,
    },
    /// There is no such entry.
    #[error("there is no group `{name}` in the container's /etc/group; give a number, or add the group to the image")]
    UnknownGroup {
        /// The name as given.
        name: String,
    },
    /// More supplementary groups than a process can have.
    #[error("user `{name}` has more than {MAX_GROUPS} groups")]
    TooManyGroups {
        /// The user as given.
        name: String,
    },
}

/// Checks the form of `USER[:GROUP]`, and tells the numbers where they are given as numbers.
///
/// # Errors
/// [`UserError::Malformed`].
pub fn parse(text: &str) -> Result<(Option<u32>, Option<u32>), UserError> {
    let fail = |why| UserError::Malformed { text: text.to_owned(), why };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let part = |part: &str| {
        if part.is_empty() {
            return Err(fail("a part of it is empty"));
        }
        if part.len() > 256
            || part.contains(|character: char| character == ':' || character == ',' || character.is_control())
        {
            return Err(fail("it has a character that no name can have, or is longer than 256 bytes"));
        }
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        match number(part.as_bytes()) {
            None if digits => Err(fail("a number in it is above 4294967294")),
            number => Ok(number),
        }
    };
    Ok((part(user)?, group.map(part).transpose()?.flatten()))
}

/// Looks up `USER[:GROUP]` and further supplementary groups by name or number in the text of `/etc/passwd` and
/// `/etc/group` (empty where there is no such file).
///
/// # Errors
/// [`UserError`], naming the user or group.
pub fn lookup(user: &str, groups: &[String], passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    parse(user)?;
    let (name, explicit) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let entry = find_user(name, passwd);
    let mut identity = match (&entry, number(name.as_bytes())) {
        (Some(entry), _) => Identity { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home: home(entry.home) },
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => return Err(UserError::UnknownUser { name: name.to_owned() }),
    };
    if let Some(explicit) = explicit {
        identity.gid = find_group(explicit, group)?;
    } else if let Some(entry) = &entry {
        let member = |found: &Group<'_>| found.members.split(|byte| *byte == b',').any(|one| one == entry.name);
        identity.groups = all_groups(group).filter(member).map(|found| found.gid).take(MAX_GROUPS + 1).collect();
    }
    for extra in groups {
        if extra.contains(':') {
            return Err(UserError::Malformed { text: extra.clone(), why: "a supplementary group has one part" });
        }
        parse(extra)?;
        identity.groups.push(find_group(extra, group)?);
    }
    if identity.groups.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups { name: user.to_owned() });
    }
    let mut seen = std::collections::HashSet::new();
    identity.groups.retain(|gid| seen.insert(*gid));
    Ok(identity)
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// A user's or group's number; the highest stands for "unchanged" in chown(2) and is none.
fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn home(entry: &[u8]) -> PathBuf {
    let absolute = entry.first() == Some(&b'/') && !entry.contains(&0);
    PathBuf::from(std::ffi::OsStr::from_bytes(if absolute { entry } else { b"/" }))
}

/// The fields of every line: seven of passwd(5) or four of group(5), missing ones empty.
fn lines<const N: usize>(text: &[u8]) -> impl Iterator<Item = [&[u8]; N]> {
    text.split(|byte| *byte == b'\n').map(|line| {
        let mut fields = line.trim_ascii().splitn(N, |byte| *byte == b':');
        std::array::from_fn(|_| fields.next().unwrap_or_default())
    })
}

fn find_user<'a>(wanted: &str, passwd: &'a [u8]) -> Option<User<'a>> {
    let wanted_uid = number(wanted.as_bytes());
    lines::<7>(passwd).find_map(|[name, _, uid, gid, _, home, _]| {
        let user = User { name, uid: number(uid)?, gid: number(gid)?, home };
        // A number is always a number, even when some entry has it for a name.
        let matches = wanted_uid.map_or(name == wanted.as_bytes(), |wanted| wanted == user.uid);
        matches.then_some(user)
    })
}

fn all_groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines::<4>(group).filter_map(|[name, _, gid, members]| Some(Group { name, gid: number(gid)?, members }))
}

fn find_group(wanted: &str, group: &[u8]) -> Result<u32, UserError> {
    match number(wanted.as_bytes()) {
        Some(gid) => Ok(gid),
        None => all_groups(group)
            .find(|found| found.name == wanted.as_bytes())
            .map(|found| found.gid)
            .ok_or_else(|| UserError::UnknownGroup { name: wanted.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a remark\n\
        broken:x:many:0::/broken:\n\
        www:x:33:33::/var/www:/usr/sbin/nologin\n\
        www:x:34:34::/other:\n\
        1000:x:7:7::/seven:\n\
        bare:x:50:51\n\
        odd:x:60:60::relative:\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:www,root\nwww:x:33:\nstaff:x:50:www\nbad:x:-1:www\nagain:x:4:www\n";

    fn find(user: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        let found = lookup(user, &[], PASSWD, GROUP)?;
        Ok((found.uid, found.gid, found.groups, found.home.display().to_string()))
    }

    #[test]
    fn as_docker_does() {
        for (user, uid, gid, groups, home) in [
            ("root", 0, 0, vec![4], "/root"),
            ("0", 0, 0, vec![4], "/root"),
            ("www", 33, 33, vec![4, 50], "/var/www"),
            ("33", 33, 33, vec![4, 50], "/var/www"),
            ("www:staff", 33, 50, vec![], "/var/www"),
            ("www:7", 33, 7, vec![], "/var/www"),
            ("4242", 4242, 0, vec![], "/"),
            ("4242:4243", 4242, 4243, vec![], "/"),
            ("1000", 1000, 0, vec![], "/"), // the entry of that name is user 7
            ("7", 7, 7, vec![], "/seven"),
            ("bare", 50, 51, vec![], "/"),
            ("odd", 60, 60, vec![], "/"),
            ("4294967294", 4_294_967_294, 0, vec![], "/"),
        ] {
            assert_eq!(find(user), Ok((uid, gid, groups, home.to_owned())), "{user}");
        }
    }

    #[test]
    fn who_is_missing_is_named() {
        assert_eq!(find("nobody"), Err(UserError::UnknownUser { name: "nobody".into() }));
        assert_eq!(find("broken"), Err(UserError::UnknownUser { name: "broken".into() }));
        assert_eq!(find("www:none"), Err(UserError::UnknownGroup { name: "none".into() }));
        for text in ["", ":", "a:", ":a", "a:b:c", "4294967295", "99999999999", "a\n", "a,b", "0:4294967295"] {
            assert!(matches!(find(text), Err(UserError::Malformed { .. })), "{text:?}");
        }
        assert!(lookup("root", &[], b"", b"").is_err());
        assert_eq!(lookup("0", &[], b"", b"").map(|found| found.uid), Ok(0));
    }

    #[test]
    fn further_groups_are_added_once() {
        let extra = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            lookup("www", &groups, PASSWD, GROUP).map(|found| found.groups)
        };
        assert_eq!(extra(&["staff", "7", "adm"]), Ok(vec![4, 50, 7]));
        assert_eq!(extra(&["none"]), Err(UserError::UnknownGroup { name: "none".into() }));
        assert!(extra(&["a:b"]).is_err() && extra(&[""]).is_err());
    }

    #[test]
    fn numbers_are_told_in_advance() {
        assert_eq!(parse("5:6"), Ok((Some(5), Some(6))));
        assert_eq!(parse("www:6"), Ok((None, Some(6))));
        assert_eq!(parse("5"), Ok((Some(5), None)));
    }

    #[test]
    fn too_many_groups_are_refused() {
        let mut group = String::new();
        for gid in 0..=65_536 {
            group.push_str(&format!("g{gid}:x:{gid}:www\n"));
        }
        assert!(matches!(lookup("www", &[], PASSWD, group.as_bytes()), Err(UserError::TooManyGroups { .. })));
    }

    proptest! {
        #[test]
        fn never_panics(user in ".{0,12}|[0-9]{1,12}(:[a-z]{1,3})?", passwd: Vec<u8>, group in "([a-z0-9:,]{0,12}\n?){0,6}") {
            for found in [
                lookup(&user, &["x".to_owned()], &passwd, group.as_bytes()),
                lookup(&user, &[], group.as_bytes(), &passwd),
            ] {
                prop_assert!(found.is_err() || (parse(&user).is_ok() && found.is_ok_and(|found| found.home.is_absolute())));
            }
        }
    }
}
