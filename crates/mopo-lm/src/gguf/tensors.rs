//! The tensors of a GGUF file under their names in Hugging Face's layout.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::TensorData;
use mopo_hub::gguf::{GgufFile, TensorInfo, TensorType};

use crate::Result;

/// A file and what of it has been read.
pub(crate) struct GgufTensors {
    file: GgufFile,
    architecture: String,
    /// Heads of queries and of keys, whose rows llama.cpp stores in another order.
    heads: [usize; 2],
    unread: BTreeSet<String>,
}

/// Names of tensors outside of blocks.
const OUTSIDE: [(&str, &str); 4] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.final_layernorm", "output_norm"),
    ("lm_head", "output"),
];

/// Names of tensors within a block.
const WITHIN: [(&str, &str); 15] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.fc2", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

impl GgufTensors {
    /// All tensors of a file; `heads` of queries and of keys.
    pub(crate) fn new(file: GgufFile, heads: [usize; 2]) -> Result<Self> {
        let architecture = file.metadata().get::<&str>("general.architecture")?.to_owned();
        let mut unread: BTreeSet<String> = file.tensors().iter().map(|t| t.name.clone()).collect();
        // Factors of the rotary embedding, which the configuration has.
        unread.remove("rope_freqs.weight");
        Ok(Self { file, architecture, heads, unread })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file's name of a tensor.
    fn name(&self, name: &str) -> String {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if let Some((_, found)) = OUTSIDE.iter().find(|(ours, _)| *ours == module) {
            return format!("{found}.{kind}");
        }
        let block = module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let Some((block, path)) = block else { return name.into() };
        let found = match path {
            // Gemma's is after the attention, the others' before the feed-forward.
            "post_attention_layernorm" if self.architecture == "gemma3" => "post_attention_norm",
            "post_attention_layernorm" => "ffn_norm",
            _ => WITHIN.iter().find(|(ours, _)| *ours == path).map_or(path, |(_, found)| found),
        };
        format!("blk.{block}.{found}.{kind}")
    }

    fn find(&mut self, name: &str, shape: &[usize]) -> Result<TensorInfo> {
        let name = self.name(name);
        let tensor = self.file.tensor(&name, shape)?.clone();
        self.unread.remove(&name);
        Ok(tensor)
    }

    /// A tensor's values in f32.
    pub(crate) fn values(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        let tensor = self.find(name, shape)?;
        let mut values = self.file.dequantise(&tensor)?;
        if let Some(heads) = self.permuted(name) {
            values = in_halves(&values, heads, shape[0]);
        }
        if self.architecture == "gemma3" && name.ends_with("norm.weight") {
            // Stored as 1 + w.
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
        Ok(TensorData::new(values, shape.to_vec()))
    }

    /// A matrix `[rows, values]` as it is stored, if its type is made of blocks.
    pub(crate) fn blocks(
        &mut self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<(TensorType, Vec<u8>)>> {
        let tensor = self.find(name, &shape)?;
        let kind = tensor.tensor_type;
        if kind.block_len() == 1 {
            return Ok(None);
        }
        let mut blocks = self.file.blocks(&tensor)?;
        if let Some(heads) = self.permuted(name) {
            blocks = in_halves(&blocks, heads, shape[0]);
        }
        Ok(Some((kind, blocks)))
    }

    /// The heads of a tensor whose rows are in llama.cpp's order: pairs that are rotated together stand side by
    /// side.
    fn permuted(&self, name: &str) -> Option<usize> {
        let [queries, keys] = self.heads;
        match self.architecture.as_str() {
            "llama" if name.contains("self_attn.q_proj.") => Some(queries),
            "llama" if name.contains("self_attn.k_proj.") => Some(keys),
            _ => None,
        }
    }

    /// Number of unread tensors.
    pub(crate) fn n_unread(&self) -> usize {
        self.unread.len()
    }

    /// Whether there is an unread tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.unread.contains(&self.name(name))
    }

    /// Reports unread tensors.
    pub(crate) fn finish(self) -> Result<()> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let names = self.unread.into_iter().collect();
        Err(mopo_hub::Error::UnusedTensors { path: self.file.path().into(), names }.into())
    }
}

/// Rows of heads with the features of pairs in two halves, as transformers has them, from pairs side by
/// side; `all` has `rows` rows.
fn in_halves<T: Copy>(all: &[T], heads: usize, rows: usize) -> Vec<T> {
    let (size, dim) = (all.len() / rows, rows / heads);
    let half = dim / 2;
    let row = |head: usize, i: usize| {
        let (side, pair) = (i / half, i % half);
        &all[(head * dim + 2 * pair + side) * size..][..size]
    };
    let rows = (0..heads).flat_map(|head| (0..dim).map(move |i| (head, i)));
    rows.flat_map(|(head, i)| row(head, i)).copied().collect()
}
