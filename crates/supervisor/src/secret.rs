//! Values that must not be seen.

use std::fmt;

/// A value that is never printed: `Debug` and `Display` give `[secret]`, and it cannot be serialised.
///
/// It guards against logs and error messages, not against somebody who reads the memory of the process.
#[derive(Clone, Default)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps it.
    pub fn new(value: T) -> Self {
        Self(value)
    }
    /// The value: every place where it is seen has this word in it.
    pub fn expose(&self) -> &T {
        &self.0
    }
    /// The value, unwrapped.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_printed() {
        #[derive(Debug)]
        struct Login {
            #[expect(dead_code, reason = "printed")]
            password: Secret<String>,
        }
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {secret:#?} {secret:>30}"), "[secret] [secret] [secret] [secret]");
        assert!(!format!("{:?}", Login { password: secret.clone() }).contains("hunter2"));
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(secret.into_exposed(), "hunter2");
    }
}
