//! Writing a model as a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use mopo_hub::gguf::{GgufWriter, TensorType, Value};
use mopo_hub::{NamedTensor, TensorWriter};
use mopo_ops::FusedBackend;

use super::metadata::{Description, describe};
use super::names::in_pairs;
use crate::{CausalLm, Decoder, OutputLayer, Result};

/// The version of ggml's quantised types that files name.
const QUANTISATION_VERSION: u32 = 2;

/// Writes `model`, with `lm_head` as its output layer if that is given, to a GGUF file, atomically.
/// `metadata` is what the caller adds: the tokenizer's keys, `general.name`. Returns how many matrices there are of
/// each type.
///
/// Matrices are stored in `tensor_type`, with two exceptions, as in llama.cpp: those whose rows are not whole
/// blocks, in Q5_0 instead of Q4_K, or in F16; and the output layer (a tied embedding too) in Q8_0 instead of a
/// type of fewer bits. Norms and biases are in F32.
///
/// A file has no adapter: [`merge`](crate::merge) it first.
///
/// # Errors
/// [`Error::InvalidParameter`](crate::Error::InvalidParameter) for a family or feature that GGUF's architectures
/// lack, by its key in `config.json`; a weight that is not finite or out of range; a file that cannot be written.
pub fn export_gguf<B: FusedBackend>(
    model: &CausalLm<B>,
    lm_head: Option<&OutputLayer<B>>,
    tensor_type: TensorType,
    metadata: impl IntoIterator<Item = (String, Value)>,
    file: &Path,
) -> Result<BTreeMap<&'static str, usize>> {
    let Description { naming, values, divisors } = describe(&model.architecture)?;
    let mut out = GgufWriter::default();
    out.value("general.architecture", naming.architecture.as_str());
    if let Some(number) = file_type(tensor_type) {
        out.value("general.file_type", number);
    }
    out.value("general.quantization_version", QUANTISATION_VERSION);
    for (key, value) in values.into_iter().chain(metadata) {
        out.value(&key, value);
    }
    if let Some(divisors) = divisors {
        let n = divisors.len();
        out.tensor("rope_freqs.weight", &[n], TensorType::F32, move || divisors.clone());
    }
    let output = match model.is_tied() && lm_head.is_none() {
        true => "token_embd.weight",
        false => "output.weight",
    };
    let mut tensors = TensorWriter::default();
    model.list_weights(lm_head, &mut tensors);
    let mut counts = BTreeMap::new();
    for NamedTensor { name, shape, values } in tensors.into_tensors() {
        let stored = naming.name(&name);
        let kind = match shape[..] {
            [_, row_len] => {
                let kind = fitting(tensor_type, row_len, stored == output);
                *counts.entry(kind.name()).or_default() += 1;
                kind
            }
            _ => TensorType::F32,
        };
        let (heads, offset, rows) = (naming.permuted(&name), naming.offset(&name), shape[0]);
        out.tensor(&stored, &shape, kind, move || {
            let mut values = values();
            if let Some(heads) = heads {
                values = in_pairs(&values, heads, rows);
            }
            values.iter_mut().for_each(|x| *x += offset.unwrap_or(0.0));
            values
        });
    }
    out.write(file)?;
    Ok(counts)
}

/// The type of a matrix with rows of this length.
fn fitting(wanted: TensorType, row_len: usize, is_output: bool) -> TensorType {
    use TensorType::*;
    let few_bits = !matches!(wanted, F32 | F16 | Bf16 | Q8_0);
    let wanted = if is_output && few_bits { Q8_0 } else { wanted };
    let choices = [wanted, if wanted == Q4K { Q5_0 } else { wanted }, F16];
    let fits = |kind: &TensorType| row_len.is_multiple_of(kind.block_len());
    choices.into_iter().find(fits).expect("F16 has blocks of 1")
}

/// llama.cpp's number for a file whose matrices are mostly of this type; of types that can be written.
fn file_type(tensor_type: TensorType) -> Option<u32> {
    Some(match tensor_type {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q8_0 => 7,
        TensorType::Q5_0 => 8,
        // Q4_K_S.
        TensorType::Q4K => 14,
        TensorType::Bf16 => 32,
        _ => return None,
    })
}
