//! What is wrong with a request, told all at once.

use std::fmt;

/// One setting that can not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The flag (`--memory`) or the field of `config.json` (`linux.namespaces[2].path`).
    pub field: String,
    /// What was given, when that helps.
    pub value: Option<String>,
    /// Why it can not be had.
    pub why: String,
    /// What to do instead.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a value.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), value: None, why: why.into(), hint: None }
    }
    /// The value that is at fault.
    #[must_use]
    pub fn of(mut self, value: impl fmt::Display) -> Self {
        self.value = Some(value.to_string());
        self
    }
    /// What to do instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longest value shown, characters: enough to recognise it.
        const SHOWN: usize = 160;
        f.write_str(&self.field)?;
        if let Some(value) = &self.value {
            let end = value.char_indices().nth(SHOWN).map(|(end, _)| end);
            let (text, more) = end.map_or((value.as_str(), ""), |end| (&value[..end], "…"));
            // Control characters would otherwise let a file write to the terminal of whoever reads the error.
            let text: String = text.chars().flat_map(printable).collect();
            write!(f, " `{text}{more}`")?;
        }
        write!(f, ": {}", self.why)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}
impl std::error::Error for Fault {}

fn printable(character: char) -> Box<dyn Iterator<Item = char>> {
    match character.is_control() {
        true => Box::new(character.escape_default()),
        false => Box::new(std::iter::once(character)),
    }
}

/// Everything that is wrong with a request; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors(pub Vec<Fault>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            all => {
                write!(f, "{} settings are wrong:", all.len())?;
                all.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}
impl std::error::Error for SpecErrors {}

/// Collects faults, so that one mistake does not hide the next.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// Notes one.
    pub(crate) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }
    /// The value, or notes the fault.
    pub(crate) fn take<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.push(fault)).ok()
    }
    /// `value` when there was no fault.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, SpecErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(SpecErrors(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_a_sentence_and_many_are_a_list() {
        let fault = Fault::new("--memory", "too small").of("4m").hint("give at least 6m");
        assert_eq!(SpecErrors(vec![fault.clone()]).to_string(), "--memory `4m`: too small; give at least 6m");
        let both = SpecErrors(vec![fault, Fault::new("--user", "empty")]).to_string();
        assert_eq!(both.lines().count(), 3);
        assert!(both.starts_with("2 settings"), "{both}");
    }

    #[test]
    fn values_are_cut_and_made_harmless() {
        let text = Fault::new("x", "y").of(format!("\x1b[31m{}", "é".repeat(500))).to_string();
        assert!(!text.contains('\x1b') && text.contains("\\u{1b}") && text.contains('…'), "{text}");
        assert!(text.chars().count() < 200);
    }
}
