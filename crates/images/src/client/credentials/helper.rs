//! Credential helpers: programs `docker-credential-NAME` that keep secrets elsewhere.
//!
//! A helper gets the registry on its standard input and answers with JSON on its standard output. It is ended when it
//! takes too long: some open a window that nobody sees.

use super::{CredentialError, Credentials};
use serde::{Deserialize, Serialize};
use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use supervisor::Secret;

/// Most that a helper's answer is read of, bytes.
const LONGEST: u64 = 64 << 10;
/// A helper's user name when the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// Every helper says so, in these words, of what it does not have.
const NOT_FOUND: &str = "credentials not found";

/// One helper program.
#[derive(Debug, Clone)]
pub(super) struct Helper {
    program: String,
    deadline: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kept<'k> {
    #[serde(rename = "ServerURL")]
    server: &'k str,
    username: &'k str,
    secret: &'k str,
}

impl Helper {
    /// The helper of this name; `None` when the name would be a path.
    pub(super) fn new(name: &str, deadline: Duration) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let ok = !name.is_empty() && name.len() <= 64 && name.bytes().all(plain);
        ok.then(|| Self { program: format!("docker-credential-{name}"), deadline })
    }

    /// This program.
    #[cfg(test)]
    pub(super) fn for_test(program: &str, deadline: Duration) -> Self {
        Self { program: program.to_owned(), deadline }
    }

    /// What it has for a registry.
    pub(super) fn get(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        const DOING: &str = "give credentials";
        let (success, output) = self.run(DOING, "get", registry, registry)?;
        if !success {
            return match output.to_ascii_lowercase().contains(NOT_FOUND) {
                true => Ok(None),
                false => Err(self.fault(DOING, registry, said(&output))),
            };
        }
        // The text itself may hold the secret, so that only its being wrong is told.
        let answer: Answer = serde_json::from_str(&output)
            .map_err(|_| self.fault(DOING, registry, "its answer is not the JSON that was expected".to_owned()))?;
        Ok(match answer {
            Answer { secret, .. } if secret.is_empty() => None,
            Answer { username, secret } if username == TOKEN_USER => Some(Credentials::Identity(Secret::new(secret))),
            Answer { username, secret } => {
                Some(Credentials::Password { user: username, password: Secret::new(secret) })
            }
        })
    }

    /// Gives it credentials to keep.
    pub(super) fn store(&self, registry: &str, credentials: &Credentials) -> Result<(), CredentialError> {
        const DOING: &str = "keep credentials";
        let (username, secret) = match credentials {
            Credentials::Password { user, password } => (user.as_str(), password.expose()),
            Credentials::Identity(token) => (TOKEN_USER, token.expose()),
        };
        let kept = Kept { server: registry, username, secret };
        let input = serde_json::to_string(&kept).map_err(|error| self.fault(DOING, registry, error.to_string()))?;
        match self.run(DOING, "store", registry, &input)? {
            (true, _) => Ok(()),
            (false, output) => Err(self.fault(DOING, registry, said(&output))),
        }
    }

    /// Has it forget them; whether it had any.
    pub(super) fn erase(&self, registry: &str) -> Result<bool, CredentialError> {
        const DOING: &str = "forget credentials";
        match self.run(DOING, "erase", registry, registry)? {
            (true, _) => Ok(true),
            (false, output) if output.to_ascii_lowercase().contains(NOT_FOUND) => Ok(false),
            (false, output) => Err(self.fault(DOING, registry, said(&output))),
        }
    }

    fn fault(&self, doing: &'static str, registry: &str, why: String) -> CredentialError {
        CredentialError::Helper { program: self.program.clone(), doing, registry: registry.to_owned(), why }
    }

    /// Runs it to its end or to the deadline; whether it succeeded, and what it printed.
    fn run(
        &self,
        doing: &'static str,
        verb: &str,
        registry: &str,
        input: &str,
    ) -> Result<(bool, String), CredentialError> {
        let fail = |why: String| self.fault(doing, registry, why);
        let mut command = Command::new(&self.program);
        command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => fail("there is no such program in PATH".to_owned()),
            _ => fail(format!("it can not be started: {error}")),
        })?;
        let (answers, answer) = mpsc::sync_channel(1);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (input, deadline) = (input.to_owned(), Instant::now() + self.deadline);
        // Threads, because a pipe can block for ever; they end with the helper, whose ends of the pipes they hold.
        std::thread::spawn(move || {
            let mut output = Vec::new();
            let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
            let read = stdout.map_or(Ok(0), |stdout| stdout.take(LONGEST).read_to_end(&mut output));
            // A helper that does not read all of its input may still answer.
            drop(written);
            drop(answers.send(read.map(|_| output)));
        });
        let output = answer.recv_timeout(self.deadline);
        let status = wait(&mut child, deadline);
        match (output, status) {
            (Ok(Ok(output)), Ok(Some(success))) => Ok((success, String::from_utf8_lossy(&output).into_owned())),
            (Ok(Err(error)), _) => Err(fail(format!("its answer can not be read: {error}"))),
            (_, Err(error)) => Err(fail(format!("it can not be waited for: {error}"))),
            _ => Err(fail(format!("it did not answer within {} s and was ended", self.deadline.as_secs()))),
        }
    }
}

/// Whether it succeeded; `None` when it had to be ended.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<bool>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first line of what a failing helper printed.
fn said(output: &str) -> String {
    match output.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(200).collect(),
        None => "it failed without saying why".to_owned(),
    }
}
