//! Hashes of text, for choices that must not change between versions. mopo-hub hashes bytes and
//! files.

use sha2::{Digest, Sha256};

/// A 64-bit hash of several parts; their lengths are hashed too, so ("ab", "c") ≠ ("a", "bc").
/// Stable across versions and machines, which the standard hashers do not guarantee.
pub(crate) fn stable_hash(seed: u64, parts: &[&str]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_seeds_make_different_hashes() {
        assert_ne!(stable_hash(0, &["ab", "c"]), stable_hash(0, &["a", "bc"]));
        assert_ne!(stable_hash(0, &["ab"]), stable_hash(1, &["ab"]));
    }
}
