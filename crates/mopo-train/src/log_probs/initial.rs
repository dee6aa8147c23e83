//! log π_0 of the training pairs, as a file of the run.

use std::path::Path;

use mopo_hub::write_own_file;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::LogProbs;
use crate::{Error, Result};

/// Writes the initial policy's log-probs, which are needed throughout training and cost a pass over
/// the data.
pub(crate) fn write(path: &Path, log_probs: &LogProbs) -> Result<()> {
    let bytes: Vec<u8> = log_probs.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let file = TensorView::new(Dtype::F32, vec![log_probs.len(), 2], &bytes)
        .and_then(|view| safetensors::serialize([("initial_log_probs", view)], None))
        .map_err(|e| Error::corrupt(path, e.to_string()))?;
    Ok(write_own_file(path, &file)?)
}

/// Reads them back.
pub(crate) fn read(path: &Path, n_pairs: usize) -> Result<LogProbs> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    let remedy = "delete it and resume: it is computed again";
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::corrupt(path, format!("{e}; {remedy}")))?;
    let view = file
        .tensor("initial_log_probs")
        .map_err(|e| Error::corrupt(path, format!("{e}; {remedy}")))?;
    if view.shape() != [n_pairs, 2] || view.dtype() != Dtype::F32 {
        return Err(Error::corrupt(
            path,
            format!("it has shape {:?}, the data has {n_pairs} pairs; {remedy}", view.shape()),
        ));
    }
    let (values, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let (rows, _) = values.as_chunks::<2>();
    Ok(rows.to_vec())
}
