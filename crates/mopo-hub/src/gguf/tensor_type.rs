//! The types of tensors: ids and names of ggml, sizes of blocks.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// How the values of a tensor are stored: in blocks, each within one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value.
    F16,
    /// 2 bytes per value, the range of F32.
    Bf16,
    /// 4 bits, one scale for 32 values.
    Q4_0,
    /// 4 bits, scale and minimum for 32 values.
    Q4_1,
    /// 5 bits, one scale for 32 values.
    Q5_0,
    /// 5 bits, scale and minimum for 32 values.
    Q5_1,
    /// 8 bits, one scale for 32 values.
    Q8_0,
    /// 2 bits, scales and minima of 4 bits for 16 values each, in blocks of 256.
    Q2K,
    /// 3 bits, scales of 6 bits for 16 values each, in blocks of 256.
    Q3K,
    /// 4 bits, scales and minima of 6 bits for 32 values each, in blocks of 256.
    Q4K,
    /// 5 bits, scales and minima of 6 bits for 32 values each, in blocks of 256.
    Q5K,
    /// 6 bits, scales of 8 bits for 16 values each, in blocks of 256.
    Q6K,
}

/// Type, id, name, values per block, bytes per block.
const TABLE: [(TensorType, u32, &str, usize, usize); 13] = [
    (TensorType::F32, 0, "F32", 1, 4),
    (TensorType::F16, 1, "F16", 1, 2),
    (TensorType::Bf16, 30, "BF16", 1, 2),
    (TensorType::Q4_0, 2, "Q4_0", 32, 18),
    (TensorType::Q4_1, 3, "Q4_1", 32, 20),
    (TensorType::Q5_0, 6, "Q5_0", 32, 22),
    (TensorType::Q5_1, 7, "Q5_1", 32, 24),
    (TensorType::Q8_0, 8, "Q8_0", 32, 34),
    (TensorType::Q2K, 10, "Q2_K", 256, 84),
    (TensorType::Q3K, 11, "Q3_K", 256, 110),
    (TensorType::Q4K, 12, "Q4_K", 256, 144),
    (TensorType::Q5K, 13, "Q5_K", 256, 176),
    (TensorType::Q6K, 14, "Q6_K", 256, 210),
];

/// Types of ggml that cannot be read here, to name them in errors.
const OTHERS: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl TensorType {
    /// All types.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.into_iter().map(|row| row.0)
    }

    /// The type with this id in files; otherwise the id with its name, if it has one.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        let known = TABLE.into_iter().find(|row| row.1 == id).map(|row| row.0);
        known.ok_or_else(|| match OTHERS.into_iter().find(|(other, _)| *other == id) {
            Some((_, name)) => format!("{name} ({id})"),
            None => id.to_string(),
        })
    }

    /// Its id in files.
    pub(super) fn id(self) -> u32 {
        self.row().1
    }

    /// ggml's name: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values per block; rows consist of whole blocks.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of a row, or of several, of `n_values`; `None` if they are not whole blocks, or too
    /// many for `usize`.
    pub fn row_bytes(self, n_values: usize) -> Option<usize> {
        let is_whole = n_values.is_multiple_of(self.block_len());
        (n_values / self.block_len()).checked_mul(self.block_bytes()).filter(|_| is_whole)
    }

    /// Whether [`quantise_row`](super::quantise_row) can write it. All types can be read.
    pub fn can_quantise(self) -> bool {
        use TensorType::*;
        matches!(self, F32 | F16 | Bf16 | Q8_0 | Q5_0 | Q4_0 | Q4K)
    }

    fn row(self) -> (Self, u32, &'static str, usize, usize) {
        TABLE[self as usize]
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// ggml's name, in upper or lower case, of a type that can be written.
impl FromStr for TensorType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::all().find(|one| one.name().eq_ignore_ascii_case(name));
        known.filter(|one| one.can_quantise()).ok_or_else(|| Error::UnwritableType {
            name: name.into(),
            known: Self::all().filter(|one| one.can_quantise()).map(Self::name).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_order_of_the_types() {
        for tensor_type in TensorType::all() {
            assert_eq!(tensor_type.row().0, tensor_type);
            assert_eq!(TensorType::from_id(tensor_type.id()), Ok(tensor_type));
        }
        assert_eq!("q4_k".parse::<TensorType>().unwrap(), TensorType::Q4K);
        let error = "Q6_K".parse::<TensorType>().unwrap_err().to_string();
        assert!(error.contains("`Q6_K`") && error.contains("Q8_0"), "{error}");
        assert_eq!(TensorType::from_id(23).unwrap_err(), "IQ4_XS (23)");
        assert_eq!(TensorType::from_id(4).unwrap_err(), "4");
        assert_eq!(TensorType::Q4K.row_bytes(512), Some(288));
        assert_eq!(TensorType::Q4K.row_bytes(576), None);
        assert_eq!(TensorType::F32.row_bytes(usize::MAX), None);
    }
}
