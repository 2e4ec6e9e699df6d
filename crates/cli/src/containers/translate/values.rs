//! Single values: what each flag's text means.

use super::Surroundings;
use crate::containers::{create::NetworkArguments, problems::Problems};
use container::{
    capability::Capability,
    options::{CreateOptions, DnsOptions, LogOptions, NamespaceMode, RuntimeKind, SeccompChoice},
};
use model::{ByteSize, NetworkMode, PortMapping};
use std::{collections::BTreeMap, fmt::Display, net::IpAddr, str::FromStr};

/// A value that reads itself.
pub fn parsed<T: FromStr>(flag: &str, text: &Option<String>, problems: &mut Problems) -> Option<T>
where
    T::Err: Display,
{
    let text = text.as_ref()?;
    problems.take(flag, text.parse::<T>().map_err(|error| quoted(text, &error)))
}

/// The standard library's errors do not say what they are about; ours do.
fn quoted(text: &str, error: &dyn Display) -> String {
    let error = error.to_string();
    match error.contains(text) && !text.is_empty() {
        true => error,
        false => format!("`{text}`: {error}"),
    }
}

/// A whole number within bounds.
pub fn ranged<T>(flag: &str, text: &Option<String>, least: T, most: T, problems: &mut Problems) -> Option<T>
where
    T: FromStr + PartialOrd + Display,
{
    let text = text.as_ref()?;
    let number = text.parse::<T>().ok().filter(|number| (&least..=&most).contains(&number));
    problems.take(flag, number.ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}")))
}

/// `NAME=VALUE` pairs.
pub fn pairs(flag: &str, texts: &[String], problems: &mut Problems) -> Vec<(String, String)> {
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    };
    texts.iter().filter_map(|text| problems.take(flag, parse(text))).collect()
}

/// `KEY[=VALUE]`.
pub fn labels(texts: &[String], problems: &mut Problems) -> BTreeMap<String, String> {
    let parse = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match key.is_empty() {
            true => Err(format!("`{text}` is not KEY[=VALUE]")),
            false => Ok((key.to_owned(), value.to_owned())),
        }
    };
    texts.iter().filter_map(|text| problems.take("--label", parse(text))).collect()
}

/// Whether the source of a volume is a path of the host, not a volume's name.
pub fn is_path(source: &str) -> bool {
    source.contains('/') || source == "." || source == ".."
}

/// `-v`: relative sources are those of the caller.
pub fn volumes(texts: &[String], surroundings: &Surroundings<'_>, problems: &mut Problems) -> Vec<String> {
    let parse = |text: &String| match text.split_once(':') {
        Some((source, rest)) if !source.is_empty() && rest.starts_with('/') => Ok(match is_path(source) {
            true => format!("{}:{rest}", surroundings.absolute(source).display()),
            false => text.clone(),
        }),
        // A volume of the container's own.
        None if text.starts_with('/') => Ok(text.clone()),
        _ => Err(format!(
            "`{text}` is not [SOURCE:]INSIDE[:OPTIONS] with an absolute path inside, such as ./data:/data:ro"
        )),
    };
    texts.iter().filter_map(|text| problems.take("--volume", parse(text))).collect()
}

/// `--network`.
pub fn network(text: &str, problems: &mut Problems) -> Option<NetworkMode> {
    let result = match text.split_once(':') {
        Some((kind @ ("container" | "ns" | "pod"), _)) => {
            Err(format!("`{kind}:` is not supported: expected a network's name, none or host"))
        }
        Some((name, _)) => {
            Err(format!("`{text}`: options after `{name}` are not supported; an address goes into --ip"))
        }
        None => text.parse::<NetworkMode>().map_err(|error| error.to_string()),
    };
    problems.take("--network", result)
}

/// `--publish`.
pub fn ports(texts: &[String], problems: &mut Problems) -> Vec<PortMapping> {
    let parsed = texts.iter().filter_map(|text| problems.take("--publish", PortMapping::parse_all(text)));
    parsed.flatten().collect()
}

/// `--dns…` and `--add-host`.
pub fn dns(arguments: &NetworkArguments, problems: &mut Problems) -> DnsOptions {
    let server = |text: &String| text.parse::<IpAddr>().map_err(|_| format!("`{text}` is not an IP address"));
    let host = |text: &String| -> Result<(String, IpAddr), String> {
        let expected = || format!("`{text}` is not NAME:ADDRESS, such as db:10.0.0.7");
        let (name, address) = text.split_once([':', '=']).filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        Ok((name.to_owned(), bare.parse().map_err(|_| expected())?))
    };
    DnsOptions {
        servers: arguments.dns.iter().filter_map(|text| problems.take("--dns", server(text))).collect(),
        search: arguments.dns_search.clone(),
        options: arguments.dns_option.clone(),
        hosts: arguments.add_host.iter().filter_map(|text| problems.take("--add-host", host(text))).collect(),
    }
}

/// `--cap-add` and `--cap-drop`: names, also several with commas between, or `ALL`.
pub fn capabilities(flag: &str, texts: &[String], problems: &mut Problems) -> Vec<String> {
    let parse = |text: &str| match text.eq_ignore_ascii_case("all") {
        true => Ok("ALL".to_owned()),
        false => text.parse::<Capability>().map(|capability| capability.to_string()),
    };
    texts.iter().flat_map(|text| text.split(',')).filter_map(|text| problems.take(flag, parse(text))).collect()
}

/// `--security-opt`.
pub fn security(
    texts: &[String],
    surroundings: &Surroundings<'_>,
    options: &mut CreateOptions,
    problems: &mut Problems,
) {
    const FLAG: &str = "--security-opt";
    for text in texts {
        let (key, value) = match text.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        match (key, value) {
            ("no-new-privileges", None | Some("true" | "1")) => options.no_new_privileges = true,
            ("no-new-privileges", Some("false" | "0")) => options.no_new_privileges = false,
            ("no-new-privileges", Some(_)) => problems.add(FLAG, format!("`{text}`: expected true or false")),
            ("seccomp", Some("unconfined")) => options.seccomp = SeccompChoice::Unconfined,
            ("seccomp", Some("default")) => options.seccomp = SeccompChoice::Default,
            ("seccomp", Some(file)) if !file.is_empty() => {
                options.seccomp = SeccompChoice::Profile(surroundings.absolute(file));
            }
            // No security module confines a container here: that is what these ask for.
            ("label", Some("disable")) | ("apparmor", Some("unconfined")) => {}
            _ => problems.add(
                FLAG,
                format!(
                    "`{text}` is not supported: expected seccomp=FILE, seccomp=unconfined or no-new-privileges[=false]"
                ),
            ),
        }
    }
}

/// `--pid` and its like.
pub fn namespace(flag: &str, text: &Option<String>, problems: &mut Problems) -> Option<NamespaceMode> {
    match text.as_deref()? {
        "private" => Some(NamespaceMode::Private),
        "host" => Some(NamespaceMode::Host),
        other => problems.take(flag, Err(format!("`{other}` is not supported: expected private or host"))),
    }
}

/// `--log-opt`, also several with commas between.
pub fn log(texts: &[String], problems: &mut Problems) -> LogOptions {
    const FLAG: &str = "--log-opt";
    let mut log = LogOptions::default();
    for text in texts.iter().flat_map(|text| text.split(',')) {
        match text.split_once('=') {
            Some(("max-size", size)) => {
                let least = ByteSize(64 << 10);
                let size = size.parse::<ByteSize>().map_err(|error| error.to_string());
                let enough = |size| match size >= least {
                    true => Ok(size),
                    false => Err(format!("`{text}` is less than {least}")),
                };
                log.max_size = problems.take(FLAG, size.and_then(enough)).unwrap_or(log.max_size);
            }
            Some(("max-file", number)) => {
                log.max_files = ranged(FLAG, &Some(number.to_owned()), 1, u32::MAX, problems).unwrap_or(log.max_files);
            }
            _ => problems.add(FLAG, format!("`{text}` is not supported: expected max-size=SIZE or max-file=NUMBER")),
        }
    }
    log
}

/// `--runtime`.
pub fn runtime(text: &Option<String>, problems: &mut Problems) -> RuntimeKind {
    let kind = match text.as_deref() {
        None | Some("jdos") => Ok(RuntimeKind::Jdos),
        Some("runc") => Ok(RuntimeKind::Runc),
        Some(other) => Err(format!("`{other}` is not a runtime: expected jdos or runc")),
    };
    problems.take("--runtime", kind).unwrap_or_default()
}
