//! A base model whose linear layers are held in 4 or 8 bits, as in QLoRA: constants, through which
//! gradients reach inputs and adapters. How numbers are packed is in `mopo_ops::quant`; quantising
//! on loading in `weights`.

#[cfg(test)]
mod tests;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use mopo_ops::{QuantFormat, QuantLayout, QuantisedData, QuantisedMatrix, primitive, tensor};

use crate::lora::LoraTarget;
use crate::projection::Weight;
use crate::{Error, Phi, Result};

/// A quantised weight. Its tensors are no parameters: nothing visits, trains or records them.
#[derive(Module, Debug)]
pub struct QuantisedWeight<B: Backend> {
    codes: Tensor<B, 1, Int>,
    scales: Tensor<B, 1>,
    scale_codes: Option<Tensor<B, 1, Int>>,
    #[module(skip)]
    layout: QuantLayout,
}

impl<B: Backend> QuantisedWeight<B> {
    /// Quantises a weight `[outputs, inputs]` in f32, bf16 or f16, called `name` in errors.
    ///
    /// # Errors
    /// The first number that is not finite.
    pub fn new(
        weight: &TensorData,
        format: QuantFormat,
        name: &str,
        device: &B::Device,
    ) -> Result<Self> {
        let data = QuantisedData::quantise(weight, format)
            .map_err(|source| Error::NotQuantised { name: name.into(), source })?;
        let QuantisedMatrix { layout, codes, scales, scale_codes } = data.to_device::<B>(device);
        Ok(Self {
            codes: Tensor::from_primitive(codes),
            scales: tensor(scales),
            scale_codes: scale_codes.map(Tensor::from_primitive),
            layout,
        })
    }

    /// What its numbers mean.
    pub fn layout(&self) -> QuantLayout {
        self.layout
    }

    /// Bytes of its tensors, scales included.
    pub fn n_bytes(&self) -> usize {
        self.matrix().n_bytes()
    }

    /// As the operations take it.
    pub(crate) fn matrix(&self) -> QuantisedMatrix<B> {
        QuantisedMatrix {
            layout: self.layout,
            codes: self.codes.clone().into_primitive(),
            scales: primitive(self.scales.clone()),
            scale_codes: self.scale_codes.clone().map(Tensor::into_primitive),
        }
    }

    /// All of it in f32, `[inputs, outputs]`.
    pub(crate) fn dequantised(&self) -> Tensor<B, 2> {
        tensor::<B, 2>(self.matrix().dequantised()).transpose()
    }
}

impl<B: Backend> Phi<B> {
    /// The same model, frozen, with the linear layers of its blocks in that format, one after the
    /// other. Embedding, output layer, LayerNorms and biases stay as they are, as in QLoRA.
    ///
    /// To load a checkpoint, [`LoadOptions::quantised`](crate::LoadOptions::quantised) needs less
    /// memory: the whole model never exists.
    ///
    /// # Errors
    /// A weight that is not finite, by its name in files.
    pub fn quantise(mut self, format: QuantFormat) -> Result<Self> {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for target in LoraTarget::ALL {
                let name = format!("model.layers.{i}.{}.weight", target.path());
                let linear = layer.linear_mut(target);
                let weight = linear.dense_weight().transpose();
                let device = weight.device();
                let weight = QuantisedWeight::new(&weight.into_data(), format, &name, &device)?;
                linear.weight = Weight::Quantised(weight);
            }
        }
        Ok(self.freeze())
    }
}
