//! In what products of matrices are computed; only burn-flex has a choice.

use serde::{Deserialize, Serialize};

/// In what products of f32 matrices are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatmulPrecision {
    /// As they are.
    #[default]
    F32,
    /// Both matrices rounded to bfloat16 (8 bits of a number's 24), their products added up in f32: about
    /// twice as fast. Products with fewer than 32 terms or columns, such as LoRA's own, stay in f32; so does
    /// everything that is not a product. It takes a processor with AVX512-BF16.
    Bf16,
    /// Every 64 terms of both matrices rotated by the same Hadamard matrix and rounded to multiples of a 127th of the largest
    /// of them, their products added up exactly within such a block: two to three times as fast. What stays in f32 is what
    /// does with [`Bf16`](Self::Bf16), and the products within attention and for the gradients of whole weights. It takes a
    /// processor with AVX512-VNNI.
    Int8,
}

impl MatmulPrecision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is the usual one, which files do not name.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// What it adds to a note on how something was computed: `, products in int8`, or nothing for what is usual.
    pub fn note(self) -> String {
        match self {
            Self::F32 => String::new(),
            other => format!(", products in {}", other.name()),
        }
    }
}

impl std::str::FromStr for MatmulPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| format!("the precisions are: {}", Self::ALL.map(Self::name).join(", ")))
    }
}
