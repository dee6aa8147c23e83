//! Kernels for burn-flex: matrix products in assembly, everything between them in one pass
//! over memory, on all threads of rayon's pool. Loops are plain and compiled for the vector instructions
//! of the current machine ([`vectorised`]).
//!
//! Results do not depend on scheduling: sums over threads have a fixed order.

mod adam;
mod attention;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod by_output;
mod elementwise;
mod factor;
mod fresh;
mod gemm;
mod log_prob;
mod math;
mod norm;
mod paged;
mod precision;
mod product;
mod quant;
mod rms_norm;
#[cfg(target_arch = "x86_64")]
mod rounded;
mod scratch;
mod select;
mod skinny;
mod updated;
mod vectors;
mod view;

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, Shape, TensorMetadata};
use burn_flex::{FlexTensor, Layout};

pub use gemm::matmul_rate;
pub use precision::{UnsupportedPrecision, matmul_precision, set_matmul_precision};

use by_output::Half;
use quant::Reader;

use crate::{
    AdamFactors, FusedBackend, Heads, Init, KvStore, Matrix, OutputParams, PackedRows, PagedRow,
    QuantisedMatrix, UpdatedLayers, UpdatedLayersGradients, generic,
};

type T = FlexTensor;

/// A loop over numbers, with its data.
trait Kernel {
    /// Must be `#[inline(always)]`: it is compiled once per set of vector instructions.
    fn run(self);
}

/// Runs a kernel with the best vector instructions of the machine.
#[inline(always)]
fn vectorised(kernel: impl Kernel) {
    struct Call<K>(K);
    // Not through a closure or a function pointer, which would be compiled without them.
    impl<K: Kernel> pulp::NullaryFnOnce for Call<K> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            self.0.run();
        }
    }
    pulp::Arch::new().dispatch(Call(kernel));
}

fn new(values: Vec<f32>, shape: impl Into<Shape>) -> T {
    T::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

fn is_f32(tensors: &[&T]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// The same tensor with its elements one after the other.
fn contiguous(x: T) -> T {
    if x.as_slice::<f32>().is_some() { x } else { x.to_contiguous() }
}

/// Its elements; the tensor must be contiguous.
fn values(x: &T) -> &[f32] {
    x.as_slice().expect("contiguous f32")
}

/// Its elements, to overwrite: its own memory if it is not shared, else a copy.
fn into_values(x: T) -> Vec<f32> {
    let x = contiguous(x);
    if !x.is_unique() {
        // `into_data` would copy it twice.
        return fresh::copied(values(&x));
    }
    x.into_data().into_vec().expect("f32")
}

/// The numbers of a tensor of rows.
fn indices(x: T) -> Vec<usize> {
    x.into_data().iter::<i64>().map(|i| i as usize).collect()
}

/// Elements per task.
const GRAIN: usize = 16 * 1024;

impl FusedBackend for Flex {
    const FEW_LINES: Option<usize> = Some(skinny::LINES);

    fn gemm(init: Init<Self>, alpha: f64, a: T, turn_a: bool, b: T, turn_b: bool) -> T {
        if is_f32(&[&a, &b]) {
            gemm::gemm(init, alpha, a, turn_a, b, turn_b)
        } else {
            generic::linear::gemm::<Self>(init, alpha, a, turn_a, b, turn_b)
        }
    }

    fn weight_matmul(init: Init<Self>, x: T, weight: &Matrix<Self>, transpose: bool) -> T {
        if !is_f32(&[&x]) {
            return generic::linear::weight_matmul::<Self>(init, x, weight, transpose);
        }
        match weight {
            Matrix::Dense(w) if w.dtype() == DType::F32 => {
                gemm::gemm(init, 1.0, x, false, w.clone(), transpose)
            }
            Matrix::Dense(w) if w.dtype() == DType::BF16 => {
                by_output::weight_matmul(init, x, &Half::new(w), transpose)
            }
            Matrix::Quantised(w) if is_f32(&[&w.scales]) => {
                by_output::weight_matmul(init, x, &Reader::new(w), transpose)
            }
            _ => generic::linear::weight_matmul::<Self>(init, x, weight, transpose),
        }
    }

    fn dequantise(matrix: &QuantisedMatrix<Self>, outputs: Range<usize>) -> T {
        if is_f32(&[&matrix.scales]) {
            quant::dequantise(matrix, outputs)
        } else {
            generic::quant::dequantise::<Self>(matrix, outputs)
        }
    }

    fn dequantise_rows(matrix: &QuantisedMatrix<Self>, outputs: &[usize]) -> T {
        if is_f32(&[&matrix.scales]) {
            quant::rows(matrix, outputs)
        } else {
            generic::quant::rows::<Self>(matrix, outputs)
        }
    }

    fn gelu_tanh(x: T) -> T {
        if is_f32(&[&x]) { elementwise::gelu(x) } else { generic::elementwise::gelu::<Self>(x) }
    }

    fn gelu_tanh_backward(x: T, grad: T) -> T {
        if is_f32(&[&x, &grad]) {
            elementwise::gelu_backward(x, grad)
        } else {
            generic::elementwise::gelu_backward::<Self>(x, grad)
        }
    }

    fn gelu_erf(x: T) -> T {
        if is_f32(&[&x]) {
            elementwise::gelu_erf(x)
        } else {
            generic::elementwise::gelu_erf::<Self>(x)
        }
    }

    fn gelu_erf_backward(x: T, grad: T) -> T {
        if is_f32(&[&x, &grad]) {
            elementwise::gelu_erf_backward(x, grad)
        } else {
            generic::elementwise::gelu_erf_backward::<Self>(x, grad)
        }
    }

    fn layer_norm_forward(x: T, gamma: T, beta: T, epsilon: f64) -> T {
        if is_f32(&[&x, &gamma, &beta]) {
            norm::forward(x, gamma, beta, epsilon)
        } else {
            generic::norm::forward::<Self>(x, gamma, beta, epsilon)
        }
    }

    fn layer_norm_backward(init: Option<T>, x: T, gamma: T, grad: T, epsilon: f64) -> T {
        if is_f32(&[&x, &gamma, &grad]) {
            norm::backward(init, x, gamma, grad, epsilon)
        } else {
            generic::norm::backward::<Self>(init, x, gamma, grad, epsilon)
        }
    }

    fn layer_norm_parameter_gradients(x: T, grad: T, epsilon: f64) -> [T; 2] {
        if is_f32(&[&x, &grad]) && x.shape().num_elements() > 0 {
            norm::parameter_gradients(x, grad, epsilon)
        } else {
            generic::norm::parameter_gradients::<Self>(x, grad, epsilon)
        }
    }

    fn silu(x: T) -> T {
        if is_f32(&[&x]) { elementwise::silu(x) } else { generic::elementwise::silu::<Self>(x) }
    }

    fn silu_backward(x: T, grad: T) -> T {
        if is_f32(&[&x, &grad]) {
            elementwise::silu_backward(x, grad)
        } else {
            generic::elementwise::silu_backward::<Self>(x, grad)
        }
    }

    fn rms_norm_forward(x: T, gamma: T, epsilon: f64, plus_one: bool) -> T {
        if is_f32(&[&x, &gamma]) {
            rms_norm::forward(x, gamma, epsilon, plus_one)
        } else {
            generic::norm::rms_forward::<Self>(x, gamma, epsilon, plus_one)
        }
    }

    fn rms_norm_backward(
        init: Option<T>,
        x: T,
        gamma: T,
        grad: T,
        epsilon: f64,
        plus_one: bool,
    ) -> T {
        if is_f32(&[&x, &gamma, &grad]) {
            rms_norm::backward(init, x, gamma, grad, epsilon, plus_one)
        } else {
            generic::norm::rms_backward::<Self>(init, x, gamma, grad, epsilon, plus_one)
        }
    }

    fn rms_norm_parameter_gradient(x: T, grad: T, epsilon: f64) -> T {
        if is_f32(&[&x, &grad]) && x.shape().num_elements() > 0 {
            rms_norm::parameter_gradient(x, grad, epsilon)
        } else {
            generic::norm::rms_parameter_gradient::<Self>(x, grad, epsilon)
        }
    }

    fn scatter_rows(grad: T, at: T, rows: usize) -> T {
        if is_f32(&[&grad]) {
            select::scatter_rows(grad, at, rows)
        } else {
            generic::select::scatter_rows::<Self>(grad, at, rows)
        }
    }

    fn rotary(x: T, cos: T, sin: T, n_heads: usize, inverse: bool) -> T {
        if is_f32(&[&x, &cos, &sin]) {
            elementwise::rotary(x, cos, sin, n_heads, inverse)
        } else {
            generic::elementwise::rotary::<Self>(x, cos, sin, n_heads, inverse)
        }
    }

    fn packed_attention(q: T, k: T, v: T, rows: &PackedRows, heads: &Heads) -> T {
        if is_f32(&[&q, &k, &v]) {
            attention::forward(q, k, v, rows, heads)
        } else {
            generic::attention::forward::<Self>(q, k, v, rows, heads)
        }
    }

    fn packed_attention_backward(
        q: T,
        k: T,
        v: T,
        grad: T,
        rows: &PackedRows,
        heads: &Heads,
    ) -> [T; 3] {
        if is_f32(&[&q, &k, &v, &grad]) {
            attention::backward(q, k, v, grad, rows, heads)
        } else {
            generic::attention::backward::<Self>(q, k, v, grad, rows, heads)
        }
    }

    fn kv_write(store: KvStore<Self>, new: T, at: &[(usize, usize)]) -> KvStore<Self> {
        if is_f32(&[&store, &new]) {
            paged::write(store, new, at)
        } else {
            generic::paged::write::<Self>(store, new, at)
        }
    }

    fn attention_paged(
        q: T,
        keys: &KvStore<Self>,
        values: &KvStore<Self>,
        rows: &[PagedRow],
        heads: &Heads,
    ) -> T {
        if is_f32(&[&q, keys, values]) {
            paged::attention(q, keys, values, rows, heads)
        } else {
            generic::paged::attention::<Self>(q, keys, values, rows, heads)
        }
    }

    fn log_prob_forward(
        hidden: T,
        layer: &OutputParams<Self>,
        targets: T,
        with_gradient: bool,
    ) -> (T, Option<T>) {
        match can_read_tokens(&layer.weight) && is_f32(&[&hidden]) {
            true => log_prob::forward(hidden, layer, targets, with_gradient),
            false => generic::log_prob::forward::<Self>(hidden, layer, targets, with_gradient),
        }
    }

    fn adam_step(param: T, grad: T, moments: Option<[T; 2]>, factors: AdamFactors) -> (T, [T; 2]) {
        if is_f32(&[&param, &grad]) {
            adam::step(param, grad, moments, factors)
        } else {
            generic::adam::step::<Self>(param, grad, moments, factors)
        }
    }

    fn scaled(x: T, factor: f64) -> T {
        if is_f32(&[&x]) {
            adam::scaled(x, factor as f32)
        } else {
            Self::float_mul_scalar(x, factor.into())
        }
    }

    fn sums_of_squares(x: T) -> Vec<f64> {
        if is_f32(&[&x]) {
            adam::sums_of_squares(&x)
        } else {
            generic::adam::sums_of_squares::<Self>(x)
        }
    }

    fn log_prob_backward(
        hidden: T,
        layer: &OutputParams<Self>,
        targets: T,
        log_probs: T,
        grad: T,
    ) -> ([T; 2], Option<T>) {
        match &layer.weight {
            Matrix::Dense(weight) if is_f32(&[&hidden, weight, &log_probs, &grad]) => {
                log_prob::backward(hidden, weight, layer, targets, log_probs, grad)
            }
            _ => generic::log_prob::backward::<Self>(hidden, layer, targets, log_probs, grad),
        }
    }

    fn updated_log_prob_forward(
        hidden: T,
        inner: T,
        layers: &UpdatedLayers<Self>,
        targets: T,
    ) -> T {
        match can_read_tokens(&layers.weight) && is_f32(&[&hidden, &inner, &layers.b]) {
            true => updated::forward(hidden, inner, layers, targets),
            false => generic::updated::forward::<Self>(hidden, inner, layers, targets),
        }
    }

    fn updated_log_prob_backward(
        hidden: T,
        inner: T,
        layers: &UpdatedLayers<Self>,
        targets: T,
        log_probs: T,
        grad: T,
    ) -> UpdatedLayersGradients<Self> {
        let backward = match can_read_tokens(&layers.weight)
            && is_f32(&[&hidden, &inner, &layers.b, &log_probs, &grad])
        {
            true => updated::backward,
            false => generic::updated::backward::<Self>,
        };
        backward(hidden, inner, layers, targets, log_probs, grad)
    }
}

/// Whether the kernels of log-probabilities read an output layer's weight.
fn can_read_tokens(weight: &Matrix<Flex>) -> bool {
    match weight {
        Matrix::Dense(weight) => matches!(weight.dtype(), DType::F32 | DType::BF16),
        Matrix::Quantised(weight) => is_f32(&[&weight.scales]),
    }
}

#[cfg(test)]
mod tests {
    /// pulp finds them only with its features for them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vector_instructions_of_the_machine_are_used() {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") {
            assert!(!matches!(pulp::Arch::new(), pulp::Arch::Scalar));
        }
    }
}
