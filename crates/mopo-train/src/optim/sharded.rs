//! An optimiser whose work and state are shared out over ranks (ZeRO stage 1; Rajbhandari et al., 2020, arXiv 1910.02054): each
//! rank sums, keeps and steps its own pieces of the parameters, and gets the others' new values.
//!
//! Pieces begin at multiples of [`SQUARES_PART`], gradients are summed in the order of micro-batches, and norms in the order
//! of parts, so that the results have the bits of one process.

use std::ops::Range;
use std::rc::Rc;

use burn::module::{AutodiffModule, ModuleMapper, ModuleVisitor, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::record::AdaptorRecord;
use burn::optim::{GradientsParams, Optimizer, SimpleOptimizer};
use burn::tensor::{Tensor, TensorData};
use mopo_ops::{FusedAutodiffBackend, FusedBackend, SQUARES_PART, primitive, tensor};

use super::adam::{Adam, AdamState};
use crate::Result;
use crate::communicator::{Communicator, failed};

/// What a checkpoint has of the optimiser.
pub(super) type Moments<B, M> = <OptimizerAdaptor<Adam, M, B> as Optimizer<M, B>>::Record;

/// Consecutive elements of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// The parameter's place among those that are trained.
    param: usize,
    start: usize,
    len: usize,
}

/// Which rank has which pieces. In the order of ranks they are all parameters in order.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// Elements of each trained parameter.
    sizes: Vec<usize>,
    pieces: Vec<Piece>,
    /// Of `pieces`, by rank.
    of_rank: Vec<Range<usize>>,
}

impl Layout {
    /// Near-equal numbers of elements for each rank.
    fn new(sizes: Vec<usize>, world: usize) -> Self {
        let total: usize = sizes.iter().sum();
        let mut by_rank: Vec<Vec<Piece>> = vec![Vec::new(); world];
        let mut before = 0;
        for (param, &size) in sizes.iter().enumerate() {
            for start in (0..size).step_by(SQUARES_PART) {
                let len = SQUARES_PART.min(size - start);
                let rank = (before * world / total).min(world - 1);
                match by_rank[rank].last_mut() {
                    Some(last) if last.param == param => last.len += len,
                    _ => by_rank[rank].push(Piece { param, start, len }),
                }
                before += len;
            }
        }
        let mut at = 0;
        let of_rank = by_rank.iter().map(|own| {
            at += own.len();
            at - own.len()..at
        });
        let of_rank = of_rank.collect();
        Self { sizes, pieces: by_rank.concat(), of_rank }
    }

    fn of_module<B: FusedAutodiffBackend, M: AutodiffModule<B>>(module: &M, world: usize) -> Self {
        let mut sizes = Sizes(Vec::new());
        module.visit(&mut sizes);
        Self::new(sizes.0, world)
    }

    fn of(&self, rank: usize) -> &[Piece] {
        &self.pieces[self.of_rank[rank].clone()]
    }
}

struct Sizes(Vec<usize>);

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Sizes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.is_require_grad() {
            self.0.push(param.val().shape().num_elements());
        }
    }
}

fn host<B: FusedBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().into_vec().expect("just converted")
}

fn on_device<B: FusedBackend>(values: Vec<f32>, device: &B::Device) -> Tensor<B, 1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Gradients by parameter, on the host; `None`: there is none.
struct Flatten<'a> {
    gradients: &'a GradientsParams,
    values: Vec<Option<Vec<f32>>>,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if param.is_require_grad() {
            self.values.push(self.gradients.get::<B::InnerBackend, D>(param.id).map(host));
        }
    }
}

fn flattened<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &GradientsParams,
) -> Vec<Option<Vec<f32>>> {
    let mut flatten = Flatten { gradients, values: Vec::new() };
    module.visit(&mut flatten);
    flatten.values
}

/// A rank's pieces of summed gradients.
pub(super) struct ShardedSums {
    layout: Rc<Layout>,
    /// One for each own piece; `None` where no pass had a gradient.
    own: Vec<Option<Vec<f32>>>,
}

impl ShardedSums {
    pub(super) fn new<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
        module: &M,
        communicator: &dyn Communicator,
    ) -> Self {
        let layout = Layout::of_module::<B, M>(module, communicator.world());
        let own = vec![None; layout.of(communicator.rank()).len()];
        Self { layout: layout.into(), own }
    }

    /// Adds the gradients of one pass of each rank, in the order of ranks; `None`: this rank had none.
    pub(super) fn add<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
        &mut self,
        module: &M,
        gradients: Option<GradientsParams>,
        communicator: &dyn Communicator,
    ) -> Result<()> {
        let layout = &*self.layout;
        let world = communicator.world();
        let parts = match gradients {
            None => vec![Vec::new(); world],
            Some(gradients) => {
                let values = flattened::<B, M>(module, &gradients);
                drop(gradients);
                let part = |rank: usize| {
                    // Which parameters have a gradient; then the pieces of those.
                    let mut part: Vec<f32> =
                        values.iter().map(|values| f32::from(u8::from(values.is_some()))).collect();
                    for piece in layout.of(rank) {
                        if let Some(values) = &values[piece.param] {
                            part.extend(&values[piece.start..piece.start + piece.len]);
                        }
                    }
                    part
                };
                (0..world).map(part).collect()
            }
        };
        let n_params = layout.sizes.len();
        for part in communicator.all_to_all(parts)? {
            if part.is_empty() {
                continue;
            }
            let (present, mut rest) =
                part.split_at_checked(n_params).ok_or_else(|| failed("a gradient is cut off"))?;
            for (piece, sum) in layout.of(communicator.rank()).iter().zip(&mut self.own) {
                if present[piece.param] == 0.0 {
                    continue;
                }
                let (values, others) = rest
                    .split_at_checked(piece.len)
                    .ok_or_else(|| failed("a gradient is cut off"))?;
                rest = others;
                match sum {
                    Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += x),
                    None => *sum = Some(values.to_vec()),
                }
            }
        }
        Ok(())
    }

    /// Replaces the sums by this rank's pieces of gradients that every rank has.
    pub(super) fn take<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
        &mut self,
        module: &M,
        gradients: &GradientsParams,
        rank: usize,
    ) {
        let values = flattened::<B, M>(module, gradients);
        let piece = |piece: &Piece| {
            let values = values[piece.param].as_ref()?;
            Some(values[piece.start..piece.start + piece.len].to_vec())
        };
        self.own = self.layout.of(rank).iter().map(piece).collect();
    }

    /// The whole gradients, on every rank.
    pub(super) fn whole<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
        self,
        module: &M,
        communicator: &dyn Communicator,
    ) -> Result<GradientsParams> {
        let present = communicator
            .gather(self.own.iter().map(Option::is_some).collect::<Vec<bool>>())?
            .concat();
        let own: Vec<f32> = self.own.into_iter().flatten().flatten().collect();
        let all = communicator.all_gather_f32(&own)?;
        let mut has = vec![false; self.layout.sizes.len()];
        for (piece, present) in self.layout.pieces.iter().zip(present) {
            has[piece.param] |= present;
        }
        let gradients = GradientsParams::new();
        let mut unflatten = Unflatten { has: &has, param: 0, rest: &all, gradients };
        module.visit(&mut unflatten);
        Ok(unflatten.gradients)
    }
}

struct Unflatten<'a> {
    has: &'a [bool],
    param: usize,
    rest: &'a [f32],
    gradients: GradientsParams,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Unflatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if !param.is_require_grad() {
            return;
        }
        if self.has[self.param] {
            let value = param.val();
            let (own, rest) = self.rest.split_at(value.shape().num_elements());
            self.rest = rest;
            let data = TensorData::new(own.to_vec(), value.shape());
            let gradient = Tensor::<B::InnerBackend, D>::from_data(data, &value.device());
            self.gradients.register::<B::InnerBackend, D>(param.id, gradient);
        }
        self.param += 1;
    }
}

/// Adam on a rank's own pieces.
pub(super) struct ShardedAdam<B: FusedBackend> {
    layout: Rc<Layout>,
    /// One for each own piece; `None` before its first step.
    moments: Vec<Option<AdamState<B, 1>>>,
}

impl<B: FusedBackend> ShardedAdam<B> {
    pub(super) fn new<A, M>(module: &M, communicator: &dyn Communicator) -> Self
    where
        A: FusedAutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let layout = Layout::of_module::<A, M>(module, communicator.world());
        let moments = layout.of(communicator.rank()).iter().map(|_| None).collect();
        Self { layout: layout.into(), moments }
    }

    /// A step along the sums. Returns the module and the gradients' norm before clipping; if that is not finite, the
    /// module is unchanged.
    pub(super) fn step<A, M>(
        &mut self,
        module: M,
        sums: &mut ShardedSums,
        learning_rate: f64,
        clip: f64,
        communicator: &dyn Communicator,
    ) -> Result<(M, f64)>
    where
        A: FusedAutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let layout = self.layout.clone();
        let own = layout.of(communicator.rank());
        let mut read = Pieces { own, param: 0, at: 0, found: Vec::new() };
        module.visit(&mut read);
        let mut params = read.found;
        let sums: Vec<Option<Tensor<B, 1>>> = sums
            .own
            .iter_mut()
            .zip(&params)
            .map(|(sum, param)| Some(on_device(sum.take()?, &param.device())))
            .collect();

        let squares = sums.iter().map(|sum| match sum {
            Some(sum) => B::sums_of_squares(primitive(sum.clone())),
            None => Vec::new(),
        });
        let squares = communicator.gather(squares.collect::<Vec<_>>())?.concat();
        let mut by_param = vec![Vec::new(); layout.sizes.len()];
        for (piece, squares) in layout.pieces.iter().zip(squares) {
            by_param[piece.param].extend(squares);
        }
        let mut sum = 0.0;
        for squares in by_param.iter().filter(|squares| !squares.is_empty()) {
            sum += squares.iter().sum::<f64>();
        }
        let norm = sum.sqrt();
        if !norm.is_finite() {
            return Ok((module, norm));
        }

        let factor = (clip > 0.0 && norm > clip).then_some(clip / norm);
        for ((param, sum), moments) in params.iter_mut().zip(sums).zip(&mut self.moments) {
            let Some(sum) = sum else { continue };
            let gradient = match factor {
                Some(factor) => tensor(B::scaled(primitive(sum), factor)),
                None => sum,
            };
            (*param, *moments) = SimpleOptimizer::<B>::step(
                &Adam,
                learning_rate,
                param.clone(),
                gradient,
                moments.take(),
            );
        }
        let values: Vec<f32> = params.into_iter().flat_map(host).collect();
        let all = communicator.all_gather_f32(&values)?;
        if all.len() != layout.sizes.iter().sum::<usize>() {
            return Err(failed("the ranks' parameters do not add up"));
        }
        Ok((module.map(&mut Replace { rest: &all }), norm))
    }

    /// All moments as a checkpoint has them, on rank 0; `None` on the others.
    pub(super) fn gathered<A, M>(
        &self,
        module: &M,
        communicator: &dyn Communicator,
    ) -> Result<Option<Moments<A, M>>>
    where
        A: FusedAutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let layout = &*self.layout;
        let times: Vec<Option<usize>> =
            self.moments.iter().map(|state| state.as_ref().map(|state| state.time)).collect();
        let times = communicator.gather(times)?.concat();
        let to_first = |of: fn(&AdamState<B, 1>) -> &Tensor<B, 1>| -> Result<Vec<f32>> {
            let own = self.moments.iter().flatten().flat_map(|state| host(of(state).clone()));
            let mut parts = vec![Vec::new(); communicator.world()];
            parts[0] = own.collect();
            Ok(communicator.all_to_all(parts)?.concat())
        };
        let first = to_first(|state| &state.first)?;
        let second = to_first(|state| &state.second)?;
        if !communicator.is_first() {
            return Ok(None);
        }
        let mut by_param = vec![None; layout.sizes.len()];
        for (piece, time) in layout.pieces.iter().zip(times) {
            by_param[piece.param] = time;
        }
        let moments = OptimizerAdaptor::<Adam, M, A>::from(Adam).to_record();
        let rest = [&first[..], &second[..]];
        let mut write = WriteMoments::<A, M> { times: &by_param, param: 0, rest, moments };
        module.visit(&mut write);
        Ok(Some(write.moments))
    }

    /// The inverse, on every rank.
    pub(super) fn restore<A, M>(
        &mut self,
        module: &M,
        moments: Moments<A, M>,
        communicator: &dyn Communicator,
    ) where
        A: FusedAutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<A>,
    {
        let layout = self.layout.clone();
        let own = layout.of(communicator.rank());
        let mut read = ReadMoments::<A, M> { own, param: 0, at: 0, moments, found: Vec::new() };
        module.visit(&mut read);
        self.moments = read.found;
    }

    /// The own moments.
    pub(super) fn moments(&self) -> impl Iterator<Item = [&Tensor<B, 1>; 2]> {
        self.moments.iter().flatten().map(|state| [&state.first, &state.second])
    }
}

/// Reads own pieces of the parameters.
struct Pieces<'a, B: FusedBackend> {
    own: &'a [Piece],
    param: usize,
    /// In `own`.
    at: usize,
    found: Vec<Tensor<B, 1>>,
}

/// The own pieces of a parameter, from the place `at` on, which moves on.
fn pieces_of<'a>(own: &'a [Piece], at: &mut usize, param: usize) -> &'a [Piece] {
    let start = *at;
    *at += own[start..].iter().take_while(|piece| piece.param == param).count();
    &own[start..*at]
}

impl<A: FusedAutodiffBackend> ModuleVisitor<A> for Pieces<'_, A::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if !param.is_require_grad() {
            return;
        }
        for piece in pieces_of(self.own, &mut self.at, self.param) {
            let value = param.val().inner();
            let n = value.shape().num_elements();
            let flat = value.reshape([n]);
            // Of its own memory, since it is changed in place.
            let values = host(flat.narrow(0, piece.start, piece.len));
            self.found.push(on_device(values, &param.val().device()));
        }
        self.param += 1;
    }
}

/// New values of all parameters.
struct Replace<'a> {
    rest: &'a [f32],
}

impl<A: FusedAutodiffBackend> ModuleMapper<A> for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        if !param.is_require_grad() {
            return param;
        }
        param.map(|old| {
            let (own, rest) = self.rest.split_at(old.shape().num_elements());
            self.rest = rest;
            let data = TensorData::new(own.to_vec(), old.shape());
            Tensor::from_inner(Tensor::from_data(data, &old.device())).require_grad()
        })
    }
}

struct WriteMoments<'a, A: FusedAutodiffBackend, M: AutodiffModule<A>> {
    times: &'a [Option<usize>],
    param: usize,
    rest: [&'a [f32]; 2],
    moments: Moments<A, M>,
}

impl<A: FusedAutodiffBackend, M: AutodiffModule<A>> ModuleVisitor<A> for WriteMoments<'_, A, M> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if !param.is_require_grad() {
            return;
        }
        if let Some(time) = self.times[self.param] {
            let value = param.val();
            let [first, second] = self.rest.each_mut().map(|rest| {
                let (own, others) = rest.split_at(value.shape().num_elements());
                *rest = others;
                let data = TensorData::new(own.to_vec(), value.shape());
                Tensor::<A::InnerBackend, D>::from_data(data, &value.device())
            });
            let state = AdamState { time, first, second };
            self.moments.insert(param.id, AdaptorRecord::from_state(state));
        }
        self.param += 1;
    }
}

struct ReadMoments<'a, A: FusedAutodiffBackend, M: AutodiffModule<A>> {
    own: &'a [Piece],
    param: usize,
    at: usize,
    moments: Moments<A, M>,
    found: Vec<Option<AdamState<A::InnerBackend, 1>>>,
}

impl<A: FusedAutodiffBackend, M: AutodiffModule<A>> ModuleVisitor<A> for ReadMoments<'_, A, M> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if !param.is_require_grad() {
            return;
        }
        let pieces = pieces_of(self.own, &mut self.at, self.param);
        self.param += 1;
        let state = self.moments.remove(&param.id).map(|state| state.into_state::<D>());
        let device = param.val().device();
        let Some(AdamState { time, first, second }) = state.filter(|_| !pieces.is_empty()) else {
            self.found.extend(pieces.iter().map(|_| None));
            return;
        };
        let [first, second] = [first, second].map(host);
        for Piece { start, len, .. } in pieces {
            let of = |values: &[f32]| on_device(values[*start..start + len].to_vec(), &device);
            self.found.push(Some(AdamState { time, first: of(&first), second: of(&second) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_one_rank_and_pieces_begin_at_parts() {
        let sizes = vec![5, 3 * SQUARES_PART + 7, SQUARES_PART, 1, 10 * SQUARES_PART];
        for world in [1, 2, 3, 4, 9] {
            let layout = Layout::new(sizes.clone(), world);
            let mut at = (0, 0);
            for rank in 0..world {
                for piece in layout.of(rank) {
                    if at.1 == sizes[at.0] {
                        at = (at.0 + 1, 0);
                    }
                    assert_eq!((piece.param, piece.start), at, "{world} ranks");
                    assert!(piece.start % SQUARES_PART == 0 && piece.len > 0);
                    at.1 += piece.len;
                }
            }
            assert_eq!(at, (4, sizes[4]), "{world} ranks");
            let share = |rank| layout.of(rank).iter().map(|piece| piece.len).sum::<usize>();
            let total: usize = sizes.iter().sum();
            assert!((0..world).all(|rank| share(rank) <= total / world + 2 * SQUARES_PART));
        }
    }
}
