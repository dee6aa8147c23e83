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
}

impl MatmulPrecision {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::str::FromStr for MatmulPrecision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::Bf16];
        all.into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| format!("the precisions are: {}", all.map(Self::name).join(", ")))
    }
}
