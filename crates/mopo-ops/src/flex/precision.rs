//! In what products are computed, for the whole process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::MatmulPrecision;

/// This machine has no instructions for products in bfloat16.
#[derive(Debug)]
pub struct NoBf16Products;

impl std::fmt::Display for NoBf16Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this processor has no AVX512-BF16, the instructions for products in bfloat16")
    }
}

impl std::error::Error for NoBf16Products {}

static BF16: AtomicBool = AtomicBool::new(false);

/// Sets it for the whole process; what is being computed meanwhile may use either.
///
/// # Errors
/// If the processor has no instructions for it.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<(), NoBf16Products> {
    let bf16 = precision == MatmulPrecision::Bf16;
    if bf16 && !super::has_bf16_products() {
        return Err(NoBf16Products);
    }
    BF16.store(bf16, Ordering::Relaxed);
    Ok(())
}

/// What [`set_matmul_precision`] was last called with.
pub fn matmul_precision() -> MatmulPrecision {
    match BF16.load(Ordering::Relaxed) {
        true => MatmulPrecision::Bf16,
        false => MatmulPrecision::F32,
    }
}
