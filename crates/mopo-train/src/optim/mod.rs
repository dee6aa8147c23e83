//! Adam on a module's gradients: accumulation, clipping by global norm, state as bytes; in one process, or shared out over
//! the ranks of several.

mod adam;
mod several;
mod sharded;
mod sums;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{GradientsParams, Optimizer};
use burn::record::{BinBytesRecorder, FullPrecisionSettings, Recorder};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use mopo_ops::{FusedAutodiffBackend, FusedBackend, primitive, tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::adam::{Adam, AdamState};
pub(crate) use self::several::{SeparateGradients, combined, gram};
use self::sharded::{Moments, ShardedAdam};
use self::sums::Sums;
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::{Error, Result};

/// Parts of a checkpoint.
const POLICY: &str = "policy.bin";
const OPTIMIZER: &str = "optimizer.bin";

type Bytes = BinBytesRecorder<FullPrecisionSettings>;

/// A module and its optimiser. All ranks have the whole module; all methods but [`module`](Self::module) are called by all of
/// them together.
pub(crate) struct Trainer<'a, B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    /// Taken out only while the optimiser rebuilds it.
    module: Option<M>,
    optimizer: Adams<B, M>,
    /// Of the gradients of the step so far.
    sums: Sums<B, M>,
    communicator: &'a dyn Communicator,
}

/// The optimiser.
enum Adams<B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    Whole(OptimizerAdaptor<Adam, M, B>),
    Sharded(ShardedAdam<B::InnerBackend>),
}

impl<B: FusedAutodiffBackend, M: AutodiffModule<B>> Adams<B, M> {
    fn new(module: &M, communicator: &dyn Communicator) -> Self {
        match communicator.is_solo() {
            true => Self::Whole(OptimizerAdaptor::from(Adam)),
            false => Self::Sharded(ShardedAdam::new::<B, M>(module, communicator)),
        }
    }
}

impl<'a, B: FusedAutodiffBackend, M: AutodiffModule<B>> Trainer<'a, B, M> {
    pub(crate) fn new(module: M, communicator: &'a dyn Communicator) -> Self {
        let optimizer = Adams::new(&module, communicator);
        let sums = Sums::new(&module, communicator);
        Self { module: Some(module), optimizer, sums, communicator }
    }

    pub(crate) fn module(&self) -> &M {
        self.module.as_ref().expect("put back after every step")
    }

    /// The ranks that train together.
    pub(crate) fn communicator(&self) -> &'a dyn Communicator {
        self.communicator
    }

    /// Forgets the moments and the number of steps: the module is trained on as if it were a new one.
    pub(crate) fn reset(&mut self) {
        self.optimizer = Adams::new(self.module(), self.communicator);
        self.sums = Sums::new(self.module(), self.communicator);
    }

    /// Makes the passes `0..n` of a step, each by one rank, and adds up the gradients of their losses. A pass is given the
    /// module and its number; what it returns besides the loss comes back in order, on every rank.
    pub(crate) fn passes<T: Serialize + DeserializeOwned>(
        &mut self,
        n: usize,
        mut pass: impl FnMut(&M, usize) -> Result<(Option<Tensor<B, 1>>, T)>,
    ) -> Result<Vec<T>> {
        let module = self.module.as_ref().expect("put back after every step");
        self.sums.passes(module, n, self.communicator, |v| pass(module, v))
    }

    /// Applies the accumulated gradients. Returns their norm before clipping; if it is not finite,
    /// the module is unchanged.
    pub(crate) fn step(&mut self, learning_rate: f64, clip: f64) -> Result<f64> {
        let module = self.module.take().expect("put back after every step");
        let (module, norm) = match (&mut self.optimizer, &mut self.sums) {
            (Adams::Whole(optimizer), Sums::Whole(accumulator)) => {
                stepped(module, optimizer, accumulator.grads(), learning_rate, clip)
            }
            (Adams::Sharded(sharded), Sums::Sharded(sums, _)) => {
                sharded.step::<B, M>(module, sums, learning_rate, clip, self.communicator)?
            }
            _ => unreachable!("both are made for the same ranks"),
        };
        self.module = Some(module);
        Ok(norm)
    }

    /// The same with these gradients, which every rank has.
    pub(crate) fn apply(
        &mut self,
        gradients: GradientsParams,
        learning_rate: f64,
        clip: f64,
    ) -> Result<f64> {
        let module = self.module.as_ref().expect("put back after every step");
        match &mut self.sums {
            Sums::Whole(accumulator) => accumulator.accumulate(module, gradients),
            Sums::Sharded(sums, _) => {
                sums.take::<B, M>(module, &gradients, self.communicator.rank());
            }
        }
        self.step(learning_rate, clip)
    }

    /// Decoupled weight decay: every matrix is multiplied by `1 - amount`; biases and norms are
    /// unchanged.
    pub(crate) fn decay(&mut self, amount: f64) {
        if amount > 0.0 {
            let module = self.module.take().expect("put back after every step");
            self.module = Some(module.map(&mut Decay { factor: 1.0 - amount }));
        }
    }

    /// Which part of the state has a NaN or an infinity, if any, in one pass over all of it.
    pub(crate) fn non_finite(&self) -> Result<Option<&'static str>> {
        let mut found = NonFinite::<B, M> { moments: None, found: None };
        let is_moment = match &self.optimizer {
            Adams::Whole(optimizer) => {
                found.moments = Some(optimizer.to_record());
                self.module().visit(&mut found);
                false
            }
            Adams::Sharded(sharded) => {
                self.module().visit(&mut found);
                let mut own = sharded.moments().flatten();
                let own = own.any(|moment| !is_finite(moment.clone()));
                self.communicator.gather(own)?.contains(&true)
            }
        };
        Ok(found.found.or(is_moment.then_some(A_MOMENT)))
    }

    /// The module's parameters, bit for bit.
    pub(crate) fn module_bytes(&self) -> Result<Vec<u8>> {
        module_to_bytes::<B, M>(self.module())
    }

    /// The state of the optimiser; empty on all ranks but the first.
    pub(crate) fn optimizer_bytes(&self) -> Result<Vec<u8>> {
        let moments = match &self.optimizer {
            Adams::Whole(optimizer) => Some(optimizer.to_record()),
            Adams::Sharded(sharded) => {
                sharded.gathered::<B, M>(self.module(), self.communicator)?
            }
        };
        moments.map_or(Ok(Vec::new()), |moments| {
            Recorder::<B>::record(&Bytes::default(), moments, ()).map_err(unreadable)
        })
    }

    /// Module and optimiser as parts of a checkpoint; none on all ranks but the first.
    pub(crate) fn parts(&self) -> Result<Parts> {
        let optimizer = self.optimizer_bytes()?;
        if !self.communicator.is_first() {
            return Ok(Parts::new());
        }
        Ok(Parts::from([(POLICY.into(), self.module_bytes()?), (OPTIMIZER.into(), optimizer)]))
    }

    /// Restores module and optimiser from a checkpoint with [`parts`](Self::parts).
    pub(crate) fn restore_parts(&mut self, c: &Checkpoint, device: &B::Device) -> Result<()> {
        self.restore(c.part(POLICY)?, c.part(OPTIMIZER)?, device)
    }

    /// Restores module and optimiser; parameter ids come from the record, so they match the
    /// moments.
    pub(crate) fn restore(
        &mut self,
        module: &[u8],
        optimizer: &[u8],
        device: &B::Device,
    ) -> Result<()> {
        self.restore_with(optimizer, device, |current| {
            module_from_bytes::<B, M>(current, module, device)
        })
    }

    /// The same with a module that `load` makes of the current one.
    pub(crate) fn restore_with(
        &mut self,
        optimizer: &[u8],
        device: &B::Device,
        load: impl FnOnce(M) -> Result<M>,
    ) -> Result<()> {
        let current = self.module.take().expect("put back after every step");
        let module = self.module.insert(load(current)?);
        let state: Moments<B, M> =
            Recorder::<B>::load(&Bytes::default(), optimizer.to_vec(), device)
                .map_err(unreadable)?;
        match &mut self.optimizer {
            Adams::Whole(optimizer) => {
                *optimizer = OptimizerAdaptor::from(Adam).load_record(state);
            }
            Adams::Sharded(sharded) => {
                sharded.restore::<B, M>(module, state, self.communicator);
                self.sums = Sums::new(module, self.communicator);
            }
        }
        Ok(())
    }
}

/// A step of one process: the module after it, and the gradients' norm before clipping.
fn stepped<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
    module: M,
    optimizer: &mut OptimizerAdaptor<Adam, M, B>,
    mut gradients: GradientsParams,
    learning_rate: f64,
    clip: f64,
) -> (M, f64) {
    let mut square = SquaredNorm { gradients: &gradients, sum: 0.0 };
    module.visit(&mut square);
    let norm = square.sum.sqrt();
    if !norm.is_finite() {
        return (module, norm);
    }
    if clip > 0.0 && norm > clip {
        module.visit(&mut Scale { gradients: &mut gradients, factor: clip / norm });
    }
    (optimizer.step(learning_rate, module, gradients), norm)
}

/// What is not finite.
const A_MOMENT: &str = "a moment of the optimiser";

fn is_finite<B: FusedBackend, const D: usize>(x: Tensor<B, D>) -> bool {
    // x − x is 0 for finite numbers and NaN otherwise, on every backend.
    let sum: f64 = (x.clone() - x).sum().into_scalar().elem();
    sum == 0.0
}

/// A module's parameters, bit for bit.
pub(crate) fn module_to_bytes<B, M>(module: &M) -> Result<Vec<u8>>
where
    B: Backend,
    M: Module<B>,
{
    Recorder::<B>::record(&Bytes::default(), module.clone().into_record(), ()).map_err(unreadable)
}

/// The inverse, into a module of the same shape.
pub(crate) fn module_from_bytes<B, M>(module: M, bytes: &[u8], device: &B::Device) -> Result<M>
where
    B: Backend,
    M: Module<B>,
{
    let loaded =
        Recorder::<B>::load(&Bytes::default(), bytes.to_vec(), device).map_err(unreadable)?;
    Ok(module.load_record(loaded))
}

pub(crate) fn unreadable(e: burn::record::RecorderError) -> Error {
    Error::Run {
        path: "checkpoint".into(),
        message: format!("a training state cannot be read or written: {e}"),
    }
}

struct Decay {
    factor: f64,
}

impl<B: FusedAutodiffBackend> ModuleMapper<B> for Decay {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if D < 2 || !param.is_require_grad() {
            return param;
        }
        // Outside the graph, as in a step of the optimiser.
        param
            .map(|tensor| Tensor::from_inner(tensor.inner().mul_scalar(self.factor)).require_grad())
    }
}

/// Finds values that are not finite.
struct NonFinite<B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    moments: Option<Moments<B, M>>,
    found: Option<&'static str>,
}

impl<B: FusedAutodiffBackend, M: AutodiffModule<B>> ModuleVisitor<B> for NonFinite<B, M> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if self.found.is_none() && !is_finite(param.val().inner()) {
            self.found = Some("a weight");
        }
        let moments = self.moments.as_mut().and_then(|moments| moments.remove(&param.id));
        if let Some(moments) = moments {
            let AdamState { first, second, .. } = moments.into_state::<D>();
            if self.found.is_none() && !(is_finite(first) && is_finite(second)) {
                self.found = Some(A_MOMENT);
            }
        }
    }
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(g) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            self.sum += B::InnerBackend::sums_of_squares(primitive(g)).iter().sum::<f64>();
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(g) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            let g: Tensor<B::InnerBackend, D> =
                tensor(B::InnerBackend::scaled(primitive(g), self.factor));
            self.gradients.register::<B::InnerBackend, D>(param.id, g);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use mopo_ops::SQUARES_PART;
    use mopo_testkit::{TestAutodiffBackend as B, TestBackend};

    use super::*;
    use crate::communicator::{Solo, threads};

    fn trainer() -> Trainer<'static, B, Linear<B>> {
        Trainer::new(LinearConfig::new(3, 2).init::<B>(&Default::default()), &Solo)
    }

    /// One step along the gradient of that sum.
    fn step(trainer: &mut Trainer<'_, B, Linear<B>>, scale: f64, learning_rate: f64) -> f64 {
        let x = Tensor::<B, 2>::ones([1, 3], &Default::default());
        let loss = |module: &Linear<B>| module.forward(x.clone()).sum().mul_scalar(scale);
        trainer.passes(1, |module, _| Ok((Some(loss(module)), ()))).unwrap();
        trainer.step(learning_rate, 0.0).unwrap()
    }

    #[test]
    fn weights_that_are_not_finite_are_found_and_such_steps_are_not_made() {
        let mut sound = trainer();
        assert_eq!(sound.non_finite().unwrap(), None);
        step(&mut sound, 1.0, 1e20);
        assert_eq!(sound.non_finite().unwrap(), None, "1e20 is a number");
        let mut wild = trainer();
        step(&mut wild, 1.0, 1e39);
        assert_eq!(wild.non_finite().unwrap(), Some("a weight"));
        // A gradient out of f32's range is not applied.
        let mut steep = trainer();
        assert!(!step(&mut steep, 1e39, 1e-3).is_finite());
        assert_eq!(steep.non_finite().unwrap(), None);
    }

    #[test]
    fn gradients_kept_apart_have_their_products_and_add_up() {
        let trainer = trainer();
        let module = trainer.module();
        let loss = |x: [f32; 3]| {
            let x = Tensor::<B, 1>::from_floats(x, &Default::default());
            module.forward(x.unsqueeze::<2>()).sum()
        };
        let mut apart = SeparateGradients::new(3, module, &Solo);
        let inputs = [[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]];
        apart.passes(0, 2, |v| Ok((Some(loss(inputs[v])), ()))).unwrap();
        apart.passes(1, 1, |_| Ok((Some(loss([-1.0, 0.0, 1.0])), ()))).unwrap();
        let gradients = apart.finish().unwrap();
        // The gradients of the weight are the inputs, once for each of two outputs, and those of the bias are
        // the numbers of passes.
        let found = gram(module, &gradients);
        let expected = [[36.0, 8.0, 0.0], [8.0, 6.0, 0.0], [0.0; 3]];
        assert_eq!(found, expected.map(Vec::from));
        let sum = combined(module, &gradients, &[0.5, 2.0, 7.0]);
        let of = |param: &Param<Tensor<B, 2>>| sum.get::<TestBackend, 2>(param.id).unwrap();
        let weight: Vec<f32> = of(&module.weight).into_data().iter().collect();
        assert_eq!(weight, [-1.5, -1.5, 1.0, 1.0, 3.5, 3.5]);
    }

    /// A module whose parameters have more than one part, and one that no pass of some steps uses.
    #[derive(Module, Debug)]
    struct Two<B: Backend> {
        used: Linear<B>,
        rarely: Linear<B>,
    }

    /// Values that need no random numbers, which threads would share.
    fn two() -> Two<B> {
        let linear = |n: usize, m: usize| {
            let mut linear = LinearConfig::new(n, m).init::<B>(&Default::default());
            let values = (0..n * m).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0);
            let data = burn::tensor::TensorData::new(values.collect::<Vec<f32>>(), [n, m]);
            let weight = Tensor::<B, 2>::from_data(data, &Default::default()).require_grad();
            linear.weight = linear.weight.map(|_| weight);
            linear.bias = linear.bias.map(|bias| bias.map(|b| b.zeros_like().require_grad()));
            linear
        };
        Two { used: linear(300, 200), rarely: linear(3, 2) }
    }

    /// Some steps of several passes, a save and a restored trainer in between; the parameters, the norms, and the
    /// size of the moments.
    fn train(c: &dyn Communicator, n_passes: usize) -> (Vec<f32>, Vec<f64>, usize) {
        let device = Default::default();
        let loss = |module: &Two<B>, step: usize, v: usize| {
            let x = (0..300).map(|i| ((i * (v + 3) + step) as f32).sin());
            let x = Tensor::<B, 1>::from_floats(&x.collect::<Vec<f32>>()[..], &device);
            let mut loss = module.used.forward(x.unsqueeze::<2>()).powi_scalar(2).sum();
            if step == 1 && v == 1 {
                loss = loss + module.rarely.forward(Tensor::<B, 2>::ones([1, 3], &device)).sum();
            }
            loss
        };
        let mut trainer = Trainer::new(two(), c);
        let mut norms = vec![];
        for step in 0..4 {
            let found = trainer.passes(n_passes, |module, v| {
                // A pass without anything to learn.
                Ok(((v != 2).then(|| loss(module, step, v)), v))
            });
            assert_eq!(found.unwrap(), (0..n_passes).collect::<Vec<_>>());
            norms.push(trainer.step(1e-2, if step == 3 { 0.1 } else { 0.0 }).unwrap());
            if step == 1 {
                let parts = trainer.parts().unwrap();
                let parts = c.by_first(|| Ok(parts)).unwrap();
                trainer = Trainer::new(two(), c);
                trainer.restore(&parts[POLICY], &parts[OPTIMIZER], &device).unwrap();
            }
        }
        assert_eq!(trainer.non_finite().unwrap(), None);
        let size = trainer.optimizer_bytes().unwrap().len();
        let module = trainer.module().valid();
        let mut all: Vec<f32> = vec![];
        for linear in [module.used, module.rarely] {
            all.extend(linear.weight.val().into_data().iter::<f32>());
            all.extend(linear.bias.unwrap().val().into_data().iter::<f32>());
        }
        (all, norms, size)
    }

    #[test]
    fn ranks_together_step_as_one_process_does_bit_for_bit() {
        const { assert!(300 * 200 > 3 * SQUARES_PART) };
        for n_passes in [1, 4, 5] {
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let (alone, norms, size) = train(&Solo, n_passes);
            for world in [2, 3, 4] {
                let made = threads::run(world, |c| train(c, n_passes));
                assert!(made[0].2 == size && made[1].2 == 0, "only the first has the moments");
                for (all, own, _) in made {
                    assert_eq!(own, norms, "{world} ranks, {n_passes} passes");
                    assert_eq!(bits(&all), bits(&alone), "{world} ranks, {n_passes} passes");
                }
            }
        }
    }
}
