//! Levels by target, from text.

use crate::LogError;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// The library's own reading takes every word that is not a level for a target at `trace`: a misspelt level would drown
/// the log instead of being refused.
pub(super) fn parse(filter: &str) -> Result<Targets, LogError> {
    filter.split(',').map(str::trim).try_fold(Targets::new(), |targets, part| {
        let refused = || LogError::Filter { filter: filter.to_owned(), part: part.to_owned() };
        match part.split_once('=') {
            None => level(part).map(|level| targets.with_default(level)),
            Some((target, word)) if is_target(target) => level(word).map(|level| targets.with_target(target, level)),
            Some(_) => None,
        }
        .ok_or_else(refused)
    })
}

fn level(word: &str) -> Option<LevelFilter> {
    Some(match word.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn the_longest_target_decides() {
        let targets = parse("warn, skydns=info,skydns::zone=DEBUG").unwrap();
        assert!(targets.would_enable("skydns::zone::load", &Level::DEBUG));
        assert!(targets.would_enable("skydns", &Level::INFO) && !targets.would_enable("skydns", &Level::DEBUG));
        assert!(targets.would_enable("other", &Level::WARN) && !targets.would_enable("other", &Level::INFO));
        assert!(!parse("off").unwrap().would_enable("other", &Level::ERROR));
    }

    #[test]
    fn nonsense_is_refused() {
        for filter in ["", "inof", "info,", "skydns", "skydns=", "=info", "a=b=info", "sky dns=info", "3"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
    }
}
