//! Prompt and length rule of TL;DR.

use super::*;

#[test]
fn lengths_are_strict_and_in_characters() {
    let range = CharacterRange { above: 2, below: 5 };
    let found: Vec<bool> = ["", "äö", "äöü", "äöüß", "äöüß!"].map(|t| range.contains(t)).into();
    assert_eq!(found, [false, false, true, true, false]);
}
