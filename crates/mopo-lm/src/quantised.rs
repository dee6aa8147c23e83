//! A base model whose linear layers are constants in 4 or 8 bits, as in QLoRA; gradients pass
//! through them to inputs and adapters. `mopo_ops::quant` packs the numbers; `weights` quantises on
//! loading.

#[cfg(test)]
mod tests;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use mopo_ops::{QuantFormat, QuantLayout, QuantisedData, QuantisedMatrix, primitive, tensor};

use crate::layers::Weight;
use crate::{Error, Phi, Result};

/// A quantised weight. Its tensors are not parameters: nothing visits, trains or records them.
#[derive(Module, Debug)]
pub struct QuantisedWeight<B: Backend> {
    codes: Tensor<B, 1, Int>,
    scales: Tensor<B, 1>,
    scale_codes: Option<Tensor<B, 1, Int>>,
    #[module(skip)]
    layout: QuantLayout,
}

impl<B: Backend> QuantisedWeight<B> {
    /// Quantises a weight `[outputs, inputs]` in f32, bf16 or f16; `name` is used in errors.
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
        Ok(Self::from_data(data, device))
    }

    /// Where it is.
    pub(crate) fn device(&self) -> B::Device {
        self.scales.device()
    }

    /// From codes on the host.
    pub(crate) fn from_data(data: QuantisedData, device: &B::Device) -> Self {
        let QuantisedMatrix { layout, codes, scales, scale_codes } = data.to_device::<B>(device);
        Self {
            codes: Tensor::from_primitive(codes),
            scales: tensor(scales),
            scale_codes: scale_codes.map(Tensor::from_primitive),
            layout,
        }
    }

    /// Format and shape.
    pub fn layout(&self) -> QuantLayout {
        self.layout
    }

    /// Size of its tensors in bytes, scales included.
    pub fn n_bytes(&self) -> usize {
        self.matrix().n_bytes()
    }

    /// In the form that the operations take.
    pub(crate) fn matrix(&self) -> QuantisedMatrix<B> {
        QuantisedMatrix {
            layout: self.layout,
            codes: self.codes.clone().into_primitive(),
            scales: primitive(self.scales.clone()),
            scale_codes: self.scale_codes.clone().map(Tensor::into_primitive),
        }
    }

    /// The whole weight in f32, `[inputs, outputs]`.
    pub(crate) fn dequantised(&self) -> Tensor<B, 2> {
        tensor::<B, 2>(self.matrix().dequantised()).transpose()
    }
}

impl<B: Backend> Phi<B> {
    /// The same model, frozen, with the linear layers of its blocks quantised to `format`, one
    /// after the other. Embedding, output layer, LayerNorms and biases are unchanged, as in QLoRA.
    ///
    /// To load a checkpoint, [`LoadOptions::quantised`](crate::LoadOptions::quantised) needs less
    /// memory, since the full model is never in memory.
    ///
    /// # Errors
    /// A weight that is not finite, by its name in files.
    pub fn quantise(mut self, format: QuantFormat) -> Result<Self> {
        let shape = self.config().shape();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for (linear, shape) in layer.linears_mut().into_iter().zip(&shape.linears) {
                let name = format!("model.layers.{i}.{}.weight", shape.path);
                let weight = linear.dense_weight().transpose();
                let device = weight.device();
                let weight = QuantisedWeight::new(&weight.into_data(), format, &name, &device)?;
                linear.weight = Weight::Quantised(weight);
            }
        }
        Ok(self.freeze())
    }
}
