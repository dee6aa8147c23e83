//! In what products are computed, for the whole process.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::MatmulPrecision;

/// This machine has no instructions for products in a precision.
#[derive(Debug)]
pub struct UnsupportedPrecision(pub MatmulPrecision);

impl std::fmt::Display for UnsupportedPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (instructions, kind) = match self.0 {
            MatmulPrecision::F32 => ("matrix instructions", "f32"),
            MatmulPrecision::Bf16 => ("AVX512-BF16", "bfloat16"),
            MatmulPrecision::Int8 => ("AVX512-VNNI", "int8"),
        };
        write!(f, "this processor has no {instructions}, the instructions for products in {kind}")
    }
}

impl std::error::Error for UnsupportedPrecision {}

static CHOSEN: AtomicU8 = AtomicU8::new(MatmulPrecision::F32 as u8);

/// Whether this machine has the instructions.
pub(super) fn available(precision: MatmulPrecision) -> bool {
    #[cfg(target_arch = "x86_64")]
    use super::rounded::{Bf16, Format, Int8};
    match precision {
        MatmulPrecision::F32 => true,
        #[cfg(target_arch = "x86_64")]
        MatmulPrecision::Bf16 => Bf16::available(),
        #[cfg(target_arch = "x86_64")]
        MatmulPrecision::Int8 => Int8::available(),
        #[cfg(not(target_arch = "x86_64"))]
        MatmulPrecision::Bf16 | MatmulPrecision::Int8 => false,
    }
}

/// Sets it for the whole process; what is being computed meanwhile may use either.
///
/// # Errors
/// If the processor has no instructions for it.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<(), UnsupportedPrecision> {
    if !available(precision) {
        return Err(UnsupportedPrecision(precision));
    }
    CHOSEN.store(precision as u8, Ordering::Relaxed);
    Ok(())
}

/// What [`set_matmul_precision`] was last called with.
pub fn matmul_precision() -> MatmulPrecision {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    MatmulPrecision::ALL
        .into_iter()
        .find(|precision| *precision as u8 == chosen)
        .unwrap_or_default()
}
