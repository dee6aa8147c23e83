//! Memory that a thread keeps for its next product: new memory would be cleared first, and then overwritten.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// Buffers that a thread keeps, and the most numbers that each of them may have.
const KEPT: usize = 4;
const MOST: usize = 2 * 1024 * 1024;

/// Buffers of a type that nobody uses at the moment.
type Pool<T> = LocalKey<Cell<Vec<Vec<T>>>>;

/// A number that buffers are made of.
pub(super) trait Number: Copy + Default + 'static {
    fn pool() -> &'static Pool<Self>;
}

macro_rules! numbers {
    ($($number:ty),+) => {
        $(impl Number for $number {
            fn pool() -> &'static Pool<Self> {
                thread_local! {
                    static POOL: Cell<Vec<Vec<$number>>> = const { Cell::new(Vec::new()) };
                }
                &POOL
            }
        })+
    };
}

numbers!(f32, u32);

/// Numbers of unknown value, to be overwritten. The thread that drops them keeps their memory.
pub(super) struct Scratch<T: Number> {
    numbers: Vec<T>,
    n: usize,
}

impl<T: Number> Scratch<T> {
    pub(super) fn of(n: usize) -> Self {
        let mut free = T::pool().take();
        let mut numbers = free.pop().unwrap_or_default();
        T::pool().set(free);
        if numbers.len() < n {
            numbers.resize(n, T::default());
        }
        Self { numbers, n }
    }
}

impl<T: Number> Drop for Scratch<T> {
    fn drop(&mut self) {
        let mut free = T::pool().take();
        if free.len() < KEPT && self.numbers.len() <= MOST {
            free.push(std::mem::take(&mut self.numbers));
        }
        T::pool().set(free);
    }
}

impl<T: Number> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.numbers[..self.n]
    }
}

impl<T: Number> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.numbers[..self.n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_serves_again_and_large_buffers_do_not_stay() {
        let at = |scratch: &Scratch<u32>| scratch.as_ptr();
        let mut first = Scratch::<u32>::of(100);
        first.fill(7);
        let known = at(&first);
        // Two at a time are two.
        let second = Scratch::<u32>::of(10);
        assert!(at(&second) != known);
        drop(first);
        let again = Scratch::<u32>::of(50);
        assert!(at(&again) == known && again.len() == 50);
        drop(Scratch::<u32>::of(MOST + 1));
        assert!(u32::pool().take().iter().all(|kept| kept.len() <= MOST));
    }
}
