//! New memory that is written once: it is not cleared before, and all threads write it.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{GRAIN, T, contiguous, values};

/// `n` numbers, written in pieces of `size`, the last of which may be shorter. `fill` gets the index of a piece, and
/// returns all of it.
///
/// # Panics
/// If a piece does not come back.
pub(super) fn filled<F>(n: usize, size: usize, fill: F) -> Vec<f32>
where
    F: for<'a> Fn(usize, &'a mut [MaybeUninit<f32>]) -> &'a mut [f32] + Sync,
{
    let size = size.max(1);
    let mut numbers = Vec::with_capacity(n);
    let filled = |(i, piece): (usize, &mut [MaybeUninit<f32>])| {
        let whole = piece.as_ptr_range();
        let back = fill(i, piece).as_ptr_range();
        assert_eq!([back.start, back.end], [whole.start.cast(), whole.end.cast()]);
    };
    let all = &mut numbers.spare_capacity_mut()[..n];
    match n <= size.max(GRAIN) {
        true => all.chunks_mut(size).enumerate().for_each(filled),
        false => {
            let pieces = all.par_chunks_mut(size).enumerate();
            pieces.with_min_len((GRAIN / size).max(1)).for_each(filled);
        }
    }
    // SAFETY: every piece has come back as numbers.
    unsafe { numbers.set_len(n) };
    numbers
}

/// `n` numbers that `write` writes.
///
/// # Safety
/// It writes all of them.
pub(super) unsafe fn written(n: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(n);
    write(&mut numbers.spare_capacity_mut()[..n]);
    // SAFETY: they are numbers now, as the caller says.
    unsafe { numbers.set_len(n) };
    numbers
}

pub(super) fn copied(numbers: &[f32]) -> Vec<f32> {
    filled(numbers.len(), GRAIN, |i, to| {
        let n = to.len();
        to.write_copy_of_slice(&numbers[i * GRAIN..][..n])
    })
}

/// The elements of a tensor, changed in pieces of `size`: in its own memory if it is not shared, else in a copy.
pub(super) fn changed(x: T, size: usize, change: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let (x, size) = (contiguous(x), size.max(1));
    if x.is_unique() {
        let mut own: Vec<f32> = x.into_data().into_vec().expect("f32");
        match own.len() <= size {
            true => change(0, &mut own),
            false => own.par_chunks_mut(size).enumerate().for_each(|(i, piece)| change(i, piece)),
        }
        return own;
    }
    let from = values(&x);
    filled(from.len(), size, |i, to| {
        let n = to.len();
        let to = to.write_copy_of_slice(&from[i * size..][..n]);
        change(i, to);
        to
    })
}

#[cfg(test)]
mod tests {
    use super::super::new;
    use super::*;

    #[test]
    fn pieces_are_written_whole() {
        for (n, size) in [(0, 3), (1, 3), (3, 3), (100_000, 7), (5, 0)] {
            let numbers = filled(n, size, |i, piece| {
                let numbers = vec![i as f32; piece.len()];
                piece.write_copy_of_slice(&numbers)
            });
            let expected: Vec<f32> = (0..n).map(|i| (i / size.max(1)) as f32).collect();
            assert_eq!(numbers, expected);
        }
    }

    #[test]
    #[should_panic]
    fn a_shorter_piece_is_refused() {
        filled(10, 5, |_, piece| piece[..4].write_copy_of_slice(&[1.0; 4]));
    }

    #[test]
    fn what_is_shared_is_not_changed() {
        let all: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
        let expected: Vec<f32> = (0..50_000).map(|i| (i + i / 1000) as f32).collect();
        let add = |i: usize, piece: &mut [f32]| piece.iter_mut().for_each(|x| *x += i as f32);
        let x = new(all.clone(), [50_000]);
        assert_eq!(changed(x.clone(), 1000, add), expected);
        assert_eq!(values(&x), all);
        assert_eq!(changed(x, 1000, add), expected);
    }
}
