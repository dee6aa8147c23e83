//! The weights of serial decoders in Hugging Face's files.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use mopo_hub::TensorWriter;

use super::{SerialConfig, SerialDecoder, SerialLayer};
use crate::Result;
use crate::layers::{Norm, OutputLayer};
use crate::weights::{LoadOptions, Source, read_projection, write_projection};

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm";
const OUTPUT: &str = "lm_head";

impl<B: Backend> SerialDecoder<B> {
    /// Loads a model of this configuration from a Hugging Face model directory or from one file; see
    /// [`load_phi`](crate::load_phi).
    ///
    /// # Errors
    /// A file that cannot be read or is truncated; missing, unexpected or misshapen tensors or
    /// unsupported data types, by name; weights to quantise that are not finite.
    pub(crate) fn load(
        dir_or_file: &Path,
        config: SerialConfig,
        options: LoadOptions,
        device: &B::Device,
    ) -> Result<Self> {
        let heads = [config.heads.queries, config.heads.keys];
        let mut files = Source::open(dir_or_file, heads)?;
        let this = Self::read(&mut files, config, options, device)?;
        files.finish()?;
        Ok(this)
    }

    /// Reads the decoder's tensors, which need not be all that there are.
    pub(crate) fn read(
        files: &mut Source,
        config: SerialConfig,
        options: LoadOptions,
        device: &B::Device,
    ) -> Result<Self> {
        // Older checkpoints contain this constant, and some a copy of the embedding as output layer.
        let is_tied = config.is_tied;
        files.ignore(|name| {
            name.ends_with("rotary_emb.inv_freq") || (is_tied && name == "lm_head.weight")
        });
        let (d, vocab) = (config.hidden_size, config.vocab_size);
        let of_norm = (config.norm, config.epsilon);
        let embedding = options.of_embedding(is_tied);
        let embed_tokens = files.weight(EMBEDDING, [d, vocab], embedding, device)?;
        let mut layers = vec![];
        for i in 0..config.layers.len() {
            let mut linears = vec![];
            for (path, bias, shape) in config.linears() {
                let name = format!("model.layers.{i}.{path}");
                linears.push(read_projection(files, &name, shape, bias, options, device)?);
            }
            let norms = Norms { config: &config, i };
            let read = |files: &mut _, (name, d): (String, usize)| {
                Norm::read(files, &name, d, of_norm, device)
            };
            let attention_norm = read(files, norms.attention())?;
            let feed_forward_norm = read(files, norms.feed_forward())?;
            let head_norms = norms.heads().map(|names| {
                names.into_iter().map(|name| read(files, name)).collect::<Result<Vec<_>>>()
            });
            let head_norms = head_norms.transpose()?;
            let [attention_post_norm, feed_forward_post_norm] = match norms.post() {
                None => [None, None],
                Some([a, b]) => [Some(read(files, a)?), Some(read(files, b)?)],
            };
            layers.push(SerialLayer {
                attention_norm,
                linears,
                head_norms,
                attention_post_norm,
                feed_forward_norm,
                feed_forward_post_norm,
            });
        }
        let norm = Norm::read(files, NORM, d, of_norm, device)?;
        let output = match is_tied {
            true => None,
            false => {
                let kind = (false, config.output_soft_cap);
                Some(OutputLayer::read(
                    files,
                    OUTPUT,
                    [d, vocab],
                    kind,
                    options.of_output(),
                    device,
                )?)
            }
        };
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            output,
            config: Arc::new(config),
            gradient_checkpointing: false,
        })
    }
}

/// Names and widths of a block's norms.
struct Norms<'a> {
    config: &'a SerialConfig,
    i: usize,
}

impl Norms<'_> {
    fn name(&self, path: &str) -> (String, usize) {
        (format!("model.layers.{}.{path}", self.i), self.config.hidden_size)
    }

    fn attention(&self) -> (String, usize) {
        self.name("input_layernorm")
    }

    fn feed_forward(&self) -> (String, usize) {
        self.name(self.config.names.feed_forward_norm)
    }

    fn heads(&self) -> Option<[(String, usize); 2]> {
        let name = |path| (self.name(path).0, self.config.head_dim);
        self.config.has_head_norms.then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(name))
    }

    fn post(&self) -> Option<[(String, usize); 2]> {
        let names = self.config.names;
        let both = [names.attention_post_norm, names.feed_forward_post_norm];
        self.config.has_post_norms.then(|| both.map(|path| self.name(path)))
    }
}

/// The tensors of a model, with another output layer if one is given.
pub(super) fn list<B: Backend>(
    model: &SerialDecoder<B>,
    lm_head: Option<&OutputLayer<B>>,
    out: &mut TensorWriter,
) {
    model.write(out);
    if let Some(output) = lm_head.or(model.output.as_ref()) {
        output.write(out, OUTPUT);
    }
}

impl<B: Backend> SerialDecoder<B> {
    /// All tensors but those of the output layer.
    pub(crate) fn write(&self, out: &mut TensorWriter) {
        let (model, config) = (self, &self.config);
        out.transposed(EMBEDDING, model.embed_tokens.dense());
        for (i, layer) in model.layers.iter().enumerate() {
            for ((path, _, _), linear) in config.linears().zip(&layer.linears) {
                write_projection(out, &format!("model.layers.{i}.{path}"), linear);
            }
            let norms = Norms { config, i };
            layer.attention_norm.write(out, &norms.attention().0);
            layer.feed_forward_norm.write(out, &norms.feed_forward().0);
            for (norm, (name, _)) in
                layer.head_norms.iter().flatten().zip(norms.heads().into_iter().flatten())
            {
                norm.write(out, &name);
            }
            let post = [&layer.attention_post_norm, &layer.feed_forward_post_norm];
            for (norm, (name, _)) in
                post.into_iter().flatten().zip(norms.post().into_iter().flatten())
            {
                norm.write(out, &name);
            }
        }
        model.norm.write(out, NORM);
    }
}
