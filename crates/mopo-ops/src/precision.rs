//! In what products of matrices are computed on burn-flex.

use std::sync::atomic::{AtomicBool, Ordering};

/// In what products of f32 matrices are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// As they are.
    #[default]
    F32,
    /// Both matrices rounded to bfloat16 (8 bits of a number's 24), their products added up in f32: about
    /// twice as fast. Products with fewer than 32 terms or columns, such as LoRA's own, stay in f32; so does
    /// everything that is not a product.
    Bf16,
}

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
    if bf16 && !crate::flex::has_bf16_products() {
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
