//! What tensors are called in GGUF files, and in which order llama.cpp has their rows.

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

/// How a file of one architecture stores tensors.
#[derive(Debug, Clone)]
pub(super) struct Naming {
    pub(super) architecture: String,
    /// Heads of queries and of keys, whose rows llama.cpp stores in another order.
    pub(super) heads: [usize; 2],
}

impl Naming {
    /// The file's name of a tensor.
    pub(super) fn name(&self, name: &str) -> String {
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if let Some((_, found)) = OUTSIDE.iter().find(|(ours, _)| *ours == module) {
            return format!("{found}.{kind}");
        }
        let block = module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let Some((block, path)) = block else { return name.into() };
        let found = match path {
            // Gemma's is after the attention, the others' before the feed-forward.
            "post_attention_layernorm" if self.is_gemma() => "post_attention_norm",
            "post_attention_layernorm" => "ffn_norm",
            _ => WITHIN.iter().find(|(ours, _)| *ours == path).map_or(path, |(_, found)| found),
        };
        format!("blk.{block}.{found}.{kind}")
    }

    /// The heads of a tensor whose rows are in llama.cpp's order: pairs that are rotated together are side by
    /// side.
    pub(super) fn permuted(&self, name: &str) -> Option<usize> {
        let [queries, keys] = self.heads;
        match self.architecture.as_str() {
            "llama" if name.contains("self_attn.q_proj.") => Some(queries),
            "llama" if name.contains("self_attn.k_proj.") => Some(keys),
            _ => None,
        }
    }

    /// What is added to a tensor's values in files: Gemma's norms are stored as 1 + w.
    pub(super) fn offset(&self, name: &str) -> Option<f32> {
        (self.is_gemma() && name.ends_with("norm.weight")).then_some(1.0)
    }

    fn is_gemma(&self) -> bool {
        self.architecture == "gemma3"
    }
}

/// Rows of heads with the features of pairs in two halves, as transformers has them, from pairs side by
/// side; `all` has `rows` rows.
pub(super) fn in_halves<T: Copy>(all: &[T], heads: usize, rows: usize) -> Vec<T> {
    let half = rows / heads / 2;
    reordered(all, heads, rows, |i| 2 * (i % half) + i / half)
}

/// The inverse of [`in_halves`].
pub(super) fn in_pairs<T: Copy>(all: &[T], heads: usize, rows: usize) -> Vec<T> {
    let half = rows / heads / 2;
    reordered(all, heads, rows, |i| half * (i % 2) + i / 2)
}

/// Row i of each head is what was its row `from(i)`.
fn reordered<T: Copy>(
    all: &[T],
    heads: usize,
    rows: usize,
    from: impl Fn(usize) -> usize,
) -> Vec<T> {
    let (size, dim) = (all.len() / rows, rows / heads);
    let sources = (0..heads).flat_map(|head| (0..dim).map(move |i| (head, i)));
    let row = |(head, i)| &all[(head * dim + from(i)) * size..][..size];
    sources.flat_map(row).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_pairs() {
        let all: Vec<u32> = (0..48).collect();
        let pairs = in_pairs(&all, 2, 12);
        assert_eq!(pairs[..8], [0, 1, 2, 3, 12, 13, 14, 15]);
        assert_eq!(in_halves(&pairs, 2, 12), all);
    }
}
