//! Prompt and length rule of TL;DR.

use proptest::prelude::*;

use super::*;

#[test]
fn lengths_are_strict_and_in_characters() {
    let range = CharacterRange { above: 2, below: 5 };
    let found: Vec<bool> = ["", "äö", "äöü", "äöüß", "äöüß!"].map(|t| range.contains(t)).into();
    assert_eq!(found, [false, false, true, true, false]);
}

proptest! {
    #[test]
    fn the_post_is_found_in_its_prompt(post in ".*") {
        let prompt = tldr_prompt(&post);
        prop_assert_eq!(tldr_post(&prompt), Some(post.as_str()));
        prop_assert_eq!(tldr_post(&post), None);
    }
}
