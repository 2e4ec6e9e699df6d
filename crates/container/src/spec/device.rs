//! Devices (`--device HOST[:INSIDE[:PERMISSIONS]]`) and what a container may do with device numbers.

use super::{
    facts::{Facts, Kind, Look},
    fault::Fault,
    mounts,
};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::path::{Path, PathBuf};

/// One request, checked as far as its text tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) host: PathBuf,
    pub(crate) inside: PathBuf,
    pub(crate) access: String,
}

/// Where nodes of devices can be made, as a sentence about one that can not.
pub(crate) const PLACE: &str = "devices can only be made below /dev";

/// Whether a node can be made at this (clean) path inside.
pub(crate) fn has_place_for(inside: &Path) -> bool {
    inside.strip_prefix("/dev").is_ok_and(|below| !below.as_os_str().is_empty())
}

/// Parses the text of one flag. Of two parts the second is permissions if it can be.
pub(crate) fn parse(text: &str) -> Result<Request, Fault> {
    let fail = |why: &str| Fault::new("--device", why).of(text);
    let parts: Vec<_> = text.split(':').collect();
    let (host, inside, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, second] if access_is_sound(second) => (*host, *host, *second),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, third] => (*host, *inside, *third),
        _ => return Err(fail("it has more than three parts").hint("write HOST[:INSIDE[:PERMISSIONS]]")),
    };
    if !access_is_sound(access) {
        return Err(fail("the permissions are not made of r, w and m, each at most once").hint("write rwm for all"));
    }
    let absolute = |path: &str, whose: &str| {
        mounts::clean(Path::new(path))
            .ok_or_else(|| fail(&format!("the path {whose} is not absolute")).hint("start it with /"))
    };
    let (host, inside) = (absolute(host, "on the host")?, absolute(inside, "inside")?);
    if let Some(why) = mounts::forbidden(&inside, false) {
        return Err(fail(why));
    }
    Ok(Request { host, inside, access: access.to_owned() })
}

/// Whether a text is permissions: r, w and m, each at most once, at least one.
pub(crate) fn access_is_sound(text: &str) -> bool {
    let once = |letter| text.matches(letter).count() <= 1;
    !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte)) && once('r') && once('w') && once('m')
}

/// The nodes of one request and the rules that allow them: one device, or all below a folder.
pub(crate) fn resolve(text: &str, facts: &Facts) -> Result<Vec<(LinuxDevice, LinuxDeviceCgroup)>, Fault> {
    let request = parse(text)?;
    let fail = |why: String| Fault::new("--device", why).of(text);
    let found = facts.files.look(&request.host);
    let look = found.map_err(|error| fail(format!("{} can not be looked up: {error}", request.host.display())))?;
    let folder = look.kind == Kind::Directory;
    if !(has_place_for(&request.inside) || folder && request.inside == Path::new("/dev")) {
        return Err(fail(PLACE.into()).hint("write HOST:/dev/NAME"));
    }
    if folder {
        let devices = facts.files.devices(&request.host);
        let devices =
            devices.map_err(|error| fail(format!("{} can not be listed: {error}", request.host.display())))?;
        let nodes: Vec<_> = devices
            .iter()
            .filter_map(|(path, look)| {
                let inside = request.inside.join(path.strip_prefix(&request.host).ok()?);
                node(&inside, look, &request.access)
            })
            .collect();
        if nodes.is_empty() {
            return Err(fail(format!("there is no device below {}", request.host.display())));
        }
        return Ok(nodes);
    }
    node(&request.inside, &look, &request.access)
        .map(|node| vec![node])
        .ok_or_else(|| fail(format!("{} is not a device", request.host.display())).hint("mount files with --volume"))
}

/// Every device of the host but those that a container has its own of.
pub(crate) fn all(facts: &Facts) -> Result<Vec<LinuxDevice>, Fault> {
    const OWN: [&str; 10] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "tty"];
    let devices = facts.files.devices(Path::new("/dev"));
    let devices = devices.map_err(|error| Fault::new("--privileged", format!("/dev can not be listed: {error}")))?;
    let own = |path: &Path| {
        let first = path.strip_prefix("/dev").ok().and_then(|rest| rest.iter().next());
        first.is_none_or(|name| OWN.iter().any(|own| name == *own) || name == "random" || name == "urandom")
    };
    let nodes = devices.iter().filter(|(path, _)| !own(path));
    Ok(nodes.filter_map(|(path, look)| node(path, look, "rwm")).map(|(device, _)| device).collect())
}

fn node(inside: &Path, look: &Look, access: &str) -> Option<(LinuxDevice, LinuxDeviceCgroup)> {
    let (kind, major, minor) = match look.kind {
        Kind::Block { major, minor } => (LinuxDeviceType::B, major, minor),
        Kind::Char { major, minor } => (LinuxDeviceType::C, major, minor),
        _ => return None,
    };
    let device = LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(look.mode)
        .uid(look.uid)
        .gid(look.gid)
        .build()
        .ok()?;
    Some((device, rule(true, kind, Some(major.into()), Some(minor.into()), access)))
}

/// One rule; a number that is absent is any.
pub(crate) fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule =
        LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access).build().unwrap_or_default();
    rule.set_major(major).set_minor(minor);
    rule
}

/// Nothing but what follows.
pub(crate) fn deny_all() -> LinuxDeviceCgroup {
    rule(false, LinuxDeviceType::A, None, None, "rwm")
}
/// Everything.
pub(crate) fn allow_all() -> LinuxDeviceCgroup {
    rule(true, LinuxDeviceType::A, None, None, "rwm")
}

/// What every container may do: make any node (which is of no use without the right to open it) and use the devices
/// that each has (OCI runtime specification, default devices).
pub(crate) fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let char = |major, minor| rule(true, LinuxDeviceType::C, Some(major), minor, "rwm");
    vec![
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
        char(1, Some(3)), // null
        char(1, Some(5)), // zero
        char(1, Some(7)), // full
        char(1, Some(8)), // random
        char(1, Some(9)), // urandom
        char(5, Some(0)), // tty
        char(5, Some(2)), // ptmx
        char(136, None),  // pts/*, and console, which is one of them
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::facts::tests::facts;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for (text, host, inside, access) in [
            ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
            ("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r"),
            ("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"),
            ("/dev/a:/dev/b:mr", "/dev/a", "/dev/b", "mr"),
        ] {
            let request = parse(text).unwrap();
            assert_eq!(request, Request { host: host.into(), inside: inside.into(), access: access.into() }, "{text}");
        }
        for (text, part) in [
            ("", "not absolute"),
            ("fuse", "not absolute"),
            ("/dev/a:b", "inside is not absolute"),
            ("/dev/a:/dev/b:rr", "permissions"),
            ("/dev/a:/dev/b:", "permissions"),
            ("/dev/a:/dev/b:x", "permissions"),
            ("/dev/a:/dev/b:r:w", "three parts"),
            ("/dev/a:/proc/kcore", "/proc"),
            ("/dev/a:/", "root"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }

    #[test]
    fn looked_up_on_the_host() {
        let facts = facts();
        let found = resolve("/dev/vda:/dev/disk:r", &facts).unwrap();
        let [(device, allowed)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((device.path().as_path(), device.typ()), (Path::new("/dev/disk"), LinuxDeviceType::B));
        assert_eq!((device.major(), device.minor(), device.file_mode()), (254, 0, Some(0o666)));
        assert_eq!(allowed.to_string(), "b 254:0 r");
        let below = resolve("/dev/snd:/dev/sound", &facts).unwrap();
        assert_eq!(below[0].0.path(), Path::new("/dev/sound/timer"));
        for (text, part) in [
            ("/dev/none", "can not be looked up"),
            ("/srv/file:/dev/file", "not a device"),
            ("/srv/data:/dev/data", "no device below"),
            ("/srv/data", "below /dev"),
            ("/dev/vda:/etc/disk", "below /dev"),
            ("/dev/vda:/dev", "below /dev"),
        ] {
            assert!(resolve(text, &facts).unwrap_err().to_string().contains(part), "{text}");
        }
        let all: Vec<_> = all(&facts).unwrap().iter().map(|device| device.path().clone()).collect();
        assert_eq!(all, [Path::new("/dev/fuse"), Path::new("/dev/snd/timer"), Path::new("/dev/vda")]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,24}", near in "/[a/]{0,4}(:/?[a/rwm]{0,4}){0,3}") {
            for text in [text, near] {
                if let Ok(request) = parse(&text) {
                    prop_assert!(request.host.is_absolute() && request.inside.is_absolute());
                }
            }
        }
    }
}
