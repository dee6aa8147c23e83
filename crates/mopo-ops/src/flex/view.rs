//! Matrices in the memory of others, to read and to write.
//!
//! Unsafe because parts of a matrix, side by side, have their elements in turns.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Index, Range};

/// A matrix to read.
#[derive(Clone, Copy)]
pub(super) struct MatRef<'a> {
    /// From the first element on; empty if the matrix is.
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `rows` runs of `columns` numbers, `stride` apart.
    pub(super) fn by_rows(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let empty = rows * columns == 0;
        let len = if empty { 0 } else { (rows - 1) * stride + columns };
        Self { data: &data[..len], rows, columns, row_stride: stride, column_stride: 1 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn transpose(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Whether the elements of a row stand side by side.
    pub(super) fn has_rows(&self) -> bool {
        self.column_stride == 1 || self.columns <= 1
    }

    /// A row; its elements must stand side by side.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && self.has_rows(), "row {row} of {}", self.rows);
        let start = row * self.row_stride;
        if self.columns == 0 { &[] } else { &self.data[start..start + self.columns] }
    }

    /// The first element, of as many as there are, and how far rows and columns are apart.
    pub(super) fn as_ptr(&self) -> (*const f32, [usize; 2]) {
        (self.data.as_ptr(), [self.row_stride, self.column_stride])
    }

    /// The elements of a column.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = f32> + use<'a> {
        let one = self.take_columns(column..column + 1);
        (0..one.rows).map(move |row| one.data[row * one.row_stride])
    }

    /// The columns left of `column`, and the others.
    pub(super) fn split_at_column(&self, column: usize) -> (Self, Self) {
        (self.take_columns(0..column), self.take_columns(column..self.columns))
    }

    pub(super) fn take_rows(&self, rows: Range<usize>) -> Self {
        self.transpose().take_columns(rows).transpose()
    }

    pub(super) fn take_columns(&self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "{columns:?}");
        let empty = columns.is_empty() || self.rows == 0;
        let data = if empty { &[] } else { &self.data[columns.start * self.column_stride..] };
        Self { data, columns: columns.len(), ..*self }
    }
}

impl Index<(usize, usize)> for MatRef<'_> {
    type Output = f32;

    fn index(&self, (row, column): (usize, usize)) -> &f32 {
        assert!(row < self.rows && column < self.columns);
        &self.data[row * self.row_stride + column * self.column_stride]
    }
}

/// A matrix to write, whose rows have their elements side by side.
pub(super) struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: like `&mut [f32]`; no two of them at a time have an element in common.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// All of `data`, row by row.
    pub(super) fn by_rows(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} × {columns}");
        let data = data.as_mut_ptr();
        Self { data, rows, columns, stride: columns, borrowed: PhantomData }
    }

    /// The same of new memory.
    ///
    /// # Safety
    /// Nothing is read, not even through [`row_mut`](Self::row_mut), before it is written.
    pub(super) unsafe fn of_new(
        data: &'a mut [MaybeUninit<f32>],
        rows: usize,
        columns: usize,
    ) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} × {columns}");
        let data = data.as_mut_ptr().cast();
        Self { data, rows, columns, stride: columns, borrowed: PhantomData }
    }

    /// The same matrix, for a shorter time.
    pub(super) fn reborrow(&mut self) -> MatMut<'_> {
        MatMut { borrowed: PhantomData, ..*self }
    }

    /// The rows above `row`, and the others.
    pub(super) fn split_at_row(self, row: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(row <= self.rows, "row {row} of {}", self.rows);
        let (rows, empty) = (self.rows - row, self.rows == row || self.columns == 0);
        // SAFETY: it has a row there, so it is in the same memory.
        let below = if empty { self.data } else { unsafe { self.data.add(row * self.stride) } };
        (Self { rows: row, ..self }, Self { data: below, rows, ..self })
    }

    /// The columns left of `column`, and the others.
    pub(super) fn split_at_column(self, column: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(column <= self.columns, "column {column} of {}", self.columns);
        let (columns, empty) = (self.columns - column, self.columns == column || self.rows == 0);
        // SAFETY: it has a column there, so it is in the first row.
        let right = if empty { self.data } else { unsafe { self.data.add(column) } };
        (Self { columns: column, ..self }, Self { data: right, columns, ..self })
    }

    pub(super) fn take_rows(self, rows: Range<usize>) -> MatMut<'a> {
        self.split_at_row(rows.end).0.split_at_row(rows.start).1
    }

    pub(super) fn take_columns(self, columns: Range<usize>) -> MatMut<'a> {
        self.split_at_column(columns.end).0.split_at_column(columns.start).1
    }

    /// A row.
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        if self.columns == 0 {
            return &mut [];
        }
        // SAFETY: a row's elements stand side by side, and only `self` has them.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.columns) }
    }

    /// The first element, of as many as there are, and how far rows are apart.
    pub(super) fn as_mut_ptr(&mut self) -> (*mut f32, usize) {
        (self.data, self.stride)
    }
}
