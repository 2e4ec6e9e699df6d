//! One value in one file of a group: how it is written, and how its former value is put back.
//!
//! Knows nothing of what the values mean; [`super::v1`] and [`super::v2`] make the settings from the OCI resources.

use super::{Cgroup, CgroupError, directory::Directory};
use rustix::io::Errno;
use std::borrow::Cow;

/// A value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Whose file it is; decides about the hierarchy.
    pub(super) controller: Cow<'static, str>,
    /// Path in the OCI resources, for messages.
    pub(super) field: String,
    /// File and value; the first whose file exists counts.
    pub(super) tries: Vec<(String, String)>,
    /// Whether a new group has this value anyway.
    pub(super) is_default: bool,
    /// Whether a missing file is no error.
    pub(super) optional: bool,
    /// What is missing when the file is.
    pub(super) absent: Option<&'static str>,
    former: Former,
}

/// How the text of a file tells what to write to get there again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Former {
    /// All of it.
    Whole,
    /// The number after the first blank (`memory.oom_control`).
    SecondWord,
    /// The line that starts with this key; the other text when there is none.
    Line(String, String),
}

impl Setting {
    pub(super) fn new(
        controller: impl Into<Cow<'static, str>>,
        field: impl Into<String>,
        file: impl Into<String>,
        value: impl ToString,
    ) -> Self {
        Self {
            controller: controller.into(),
            field: field.into(),
            tries: vec![(file.into(), value.to_string())],
            is_default: false,
            optional: false,
            absent: None,
            former: Former::Whole,
        }
    }
    /// What to write where, when the files before are not there.
    pub(super) fn or(mut self, file: impl Into<String>, value: impl ToString) -> Self {
        self.tries.push((file.into(), value.to_string()));
        self
    }
    /// A new group has this value.
    pub(super) fn default_when(mut self, is_default: bool) -> Self {
        self.is_default = is_default;
        self
    }
    /// No error when the file is missing.
    pub(super) fn optional_when(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }
    /// What the kernel or machine lacks when the file is missing.
    pub(super) fn needs(mut self, feature: &'static str) -> Self {
        self.absent = Some(feature);
        self
    }
    /// The file has a line per key, and this is what removes one.
    pub(super) fn line(mut self, key: impl Into<String>, without: impl Into<String>) -> Self {
        self.former = Former::Line(key.into(), without.into());
        self
    }
    /// The value is the second word of what the file shows.
    pub(super) fn second_word(mut self) -> Self {
        self.former = Former::SecondWord;
        self
    }

    fn former(&self, text: &str) -> String {
        match &self.former {
            // An empty list is written as an empty line: writing nothing is no call at all.
            Former::Whole if text.trim().is_empty() => "\n".to_owned(),
            Former::Whole => text.trim_end().to_owned(),
            Former::SecondWord => text.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned(),
            Former::Line(key, without) => text
                .lines()
                .find(|line| line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(' ')))
                .unwrap_or(without)
                .trim_end()
                .to_owned(),
        }
    }
}

/// Former values, in the order of their change.
#[derive(Debug, Default)]
pub(super) struct Journal(Vec<(Cow<'static, str>, String, String)>);

impl Journal {
    /// Puts everything back that was changed; gives the error that made it necessary.
    pub(super) fn undo(self, cgroup: &Cgroup, cause: CgroupError) -> CgroupError {
        let mut lost = Vec::new();
        for (controller, file, value) in self.0.into_iter().rev() {
            let Some(directory) = cgroup.directory_of(&controller) else { continue };
            let wrong = value.lines().find_map(|line| directory.write(&file, &format!("{line}\n")).err());
            if let Some(error) = wrong {
                lost.push(format!("{} = `{value}` ({error})", directory.path().join(file).display()));
            }
        }
        if lost.is_empty() {
            cause
        } else {
            CgroupError::NotRestored { settings: lost.join(", "), source: Box::new(cause) }
        }
    }
}

/// Writes groups of settings. Within one group the kernel checks the values against each other, so that an order may be
/// refused in which another is fine: what is invalid now is tried again after the others, as long as that helps.
///
/// # Errors
/// Stops at the first; with a journal, all that was written before can be undone.
pub(super) fn apply(
    cgroup: &Cgroup,
    groups: &[Vec<Setting>],
    mut journal: Option<&mut Journal>,
) -> Result<(), CgroupError> {
    for group in groups {
        let mut left: Vec<_> = group.iter().filter(|setting| journal.is_some() || !setting.is_default).collect();
        while !left.is_empty() {
            let before = left.len();
            let mut refused = None;
            let mut later = Vec::new();
            for setting in left {
                match write(cgroup, setting, journal.as_deref_mut()) {
                    Err(CgroupError::Refused { source, field, value, file, hint })
                        if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
                    {
                        later.push(setting);
                        refused.get_or_insert(CgroupError::Refused { source, field, value, file, hint });
                    }
                    result => result?,
                }
            }
            if later.len() == before
                && let Some(refused) = refused
            {
                return Err(refused);
            }
            left = later;
        }
    }
    Ok(())
}

fn write(cgroup: &Cgroup, setting: &Setting, journal: Option<&mut Journal>) -> Result<(), CgroupError> {
    if let Some(directory) = cgroup.directory_of(&setting.controller) {
        for (file, value) in &setting.tries {
            // A file that can not be read (some are for writing only) has no former value to put back.
            let former = journal.is_some().then(|| directory.read(file));
            match directory.write(file, value) {
                Ok(()) => {
                    if let (Some(journal), Some(Ok(text))) = (journal, former) {
                        journal.0.push((setting.controller.clone(), file.clone(), setting.former(&text)));
                    }
                    return Ok(());
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(refusal(directory, setting, file, value, error)),
            }
        }
    }
    if setting.optional {
        return Ok(());
    }
    let reason = match setting.absent {
        Some(feature) if cgroup.is_enabled(&setting.controller) => {
            format!("this kernel has no {feature} (no {} in {})", files(setting), cgroup.place(&setting.controller))
        }
        _ => cgroup.why_missing(&setting.controller, &files(setting)),
    };
    Err(CgroupError::setting(&setting.field, reason))
}

fn files(setting: &Setting) -> String {
    setting.tries.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>().join(" or ")
}

fn refusal(directory: &Directory, setting: &Setting, file: &str, value: &str, error: Errno) -> CgroupError {
    let number = |file| directory.read(file).ok().map(|text| text.trim().to_owned());
    let hint = match (&*setting.controller, error) {
        ("memory", Errno::BUSY) => {
            let usage = number("memory.usage_in_bytes").or_else(|| number("memory.current")).unwrap_or_default();
            format!(" (in use: {usage} bytes, and the kernel could not free enough)")
        }
        ("memory", Errno::INVAL) => {
            " (memory.swap is memory plus swap and must not be below memory.limit: give both)".to_owned()
        }
        ("cpu", Errno::INVAL) => {
            " (a quota is at least 1000 µs, a period 1000 to 1000000 µs, a burst at most the quota, \
             and no group may get more than the ones above it)"
                .to_owned()
        }
        ("cpuset", Errno::INVAL | Errno::RANGE | Errno::ACCESS | Errno::NOSPC) => {
            " (a list such as `0-1,3` of what this machine has and the group above may use)".to_owned()
        }
        ("io" | "blkio", Errno::NODEV | Errno::NXIO) => {
            " (no such block device; a limit is for a whole disk, not for a partition)".to_owned()
        }
        ("devices", Errno::PERM) => " (the group above may not use it)".to_owned(),
        (_, Errno::ROFS) => " (control groups are mounted read-only here)".to_owned(),
        _ => String::new(),
    };
    CgroupError::Refused {
        field: setting.field.clone(),
        value: value.trim_end().to_owned(),
        file: directory.path().join(file),
        hint,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_values_read_back_as_written() {
        let whole = Setting::new("memory", "f", "file", 1);
        assert_eq!(whole.former("9223372036854771712\n"), "9223372036854771712");
        assert_eq!(whole.former("\n"), "\n");
        assert_eq!(whole.clone().second_word().former("oom_kill_disable 1\nunder_oom 0\noom_kill 3\n"), "1");
        let line = whole.line("8:1", "8:1 0");
        assert_eq!(line.former("8:16 5\n8:1 1000\n"), "8:1 1000");
        assert_eq!(line.former("8:16 5\n"), "8:1 0");
        assert_eq!(line.former(""), "8:1 0");
    }
}
