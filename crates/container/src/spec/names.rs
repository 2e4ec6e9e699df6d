//! Names for containers that were given none.

use model::ContainerName;

const QUALITIES: [&str; 64] = [
    "amber", "ample", "apt", "autumn", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever",
    "coral", "cosy", "crisp", "deft", "distant", "eager", "early", "easy", "fair", "fine", "firm", "fond", "free",
    "fresh", "gentle", "glad", "golden", "grand", "green", "handy", "happy", "hardy", "jolly", "keen", "kind", "late",
    "light", "lively", "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "plain", "polar", "prime",
    "proud", "quick", "quiet", "rapid", "ready", "rustic", "silver", "solid", "spry", "steady", "sunny", "swift",
    "tidy", "warm",
];
const THINGS: [&str; 64] = [
    "alder", "aspen", "badger", "beacon", "beech", "birch", "bison", "brook", "cairn", "cedar", "cliff", "comet",
    "cove", "crane", "delta", "dune", "eagle", "elm", "falcon", "fern", "finch", "fjord", "fox", "garnet", "glacier",
    "grove", "harbor", "hazel", "heron", "ibis", "island", "jay", "juniper", "kestrel", "lagoon", "larch", "lark",
    "lynx", "maple", "marten", "meadow", "meteor", "moss", "oak", "orca", "osprey", "otter", "owl", "pine", "plover",
    "quartz", "raven", "reef", "ridge", "river", "robin", "sable", "spruce", "stork", "summit", "tern", "thrush",
    "valley", "willow",
];

/// The name that belongs to this random number, such as `quiet-heron-42`: one of 409 600. When it is taken, ask again
/// with another number.
///
/// # Errors
/// None in practice; the type is that of parsing a name.
pub fn generate(random: u64) -> Result<ContainerName, model::NameError> {
    let pick = |words: &[&'static str; 64], shift: u32| words[usize::from((random >> shift & 63) as u8)];
    format!("{}-{}-{}", pick(&QUALITIES, 0), pick(&THINGS, 8), (random >> 16) % 100).parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn words_differ() {
        assert_eq!(QUALITIES.iter().chain(&THINGS).collect::<HashSet<_>>().len(), 128);
    }

    proptest! {
        #[test]
        fn every_number_has_a_name(random: u64) {
            let name = generate(random).unwrap();
            prop_assert_eq!(name.as_str().split('-').count(), 3);
        }
    }
}
