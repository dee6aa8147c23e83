//! Metadata: keys and values of thirteen types, read with errors that name file, key and type.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cursor::Cursor;
use crate::{Error, Result};

/// How deep arrays may be nested. Known files have no arrays in arrays.
const MAX_DEPTH: usize = 4;
/// Ids of the types that are not numbers.
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// The smallest array in a file: type and length.
const ARRAY_HEAD: u64 = 12;

/// The enums, and what goes through all number types.
macro_rules! values {
    ($($variant:ident($type:ident) = $id:literal;)*) => {
        /// A value of the metadata.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(
                #[doc = concat!("One `", stringify!($type), "`.")]
                $variant($type),
            )*
            /// A truth value.
            Bool(bool),
            /// Text.
            String(String),
            /// Values of one type.
            Array(Array),
        }

        /// Values of one type, in the file's order.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(
                #[doc = concat!("Of `", stringify!($type), "`.")]
                $variant(Vec<$type>),
            )*
            /// Truth values.
            Bool(Vec<bool>),
            /// Texts.
            String(Vec<String>),
            /// Arrays, whose types may differ.
            Array(Vec<Array>),
        }

        impl Value {
            /// Reads a value of the type `id`.
            pub(super) fn read(cursor: &mut Cursor<'_>, id: u32) -> Result<Self> {
                Ok(match id {
                    $($id => Self::$variant($type::from_le_bytes(cursor.bytes()?)),)*
                    BOOL => Self::Bool(cursor.bool()?),
                    STRING => Self::String(cursor.string()?),
                    ARRAY => Self::Array(Array::read(cursor, 1)?),
                    _ => return Err(unknown(cursor, id)),
                })
            }

            /// Appends the id of its type and the value.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) => {
                        out.extend(u32::to_le_bytes($id));
                        out.extend(value.to_le_bytes());
                    })*
                    Self::Bool(value) => {
                        out.extend(BOOL.to_le_bytes());
                        out.push((*value).into());
                    }
                    Self::String(text) => {
                        out.extend(STRING.to_le_bytes());
                        write_string(text, out);
                    }
                    Self::Array(array) => {
                        out.extend(ARRAY.to_le_bytes());
                        array.write(out);
                    }
                }
            }

            /// Type and, if short, value, as errors show them.
            fn describe(&self) -> String {
                match self {
                    $(Self::$variant(value) => format!("{value} ({})", stringify!($type)),)*
                    Self::Bool(value) => value.to_string(),
                    Self::String(_) => "a string".into(),
                    Self::Array(array) => {
                        let (n, name) = array.describe();
                        format!("an array of {n} {name}")
                    }
                }
            }
        }

        $(
            impl From<$type> for Value {
                fn from(value: $type) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$type>> for Value {
                fn from(values: Vec<$type>) -> Self {
                    Self::Array(Array::$variant(values))
                }
            }
        )*

        impl Array {
            /// Reads type, length and items of an array that is nested `depth` deep.
            fn read(cursor: &mut Cursor<'_>, depth: usize) -> Result<Self> {
                let id = cursor.u32()?;
                Ok(match id {
                    $($id => {
                        const SIZE: usize = size_of::<$type>();
                        let n = cursor.count(SIZE as u64, "numbers")?;
                        let bytes = cursor.many(n, SIZE)?;
                        let items = bytes.as_chunks::<SIZE>().0;
                        Self::$variant(items.iter().map(|b| $type::from_le_bytes(*b)).collect())
                    })*
                    BOOL => {
                        let bytes = cursor.counted_bytes()?;
                        let values: Result<_> =
                            bytes.into_iter().map(|byte| cursor.check_bool(byte)).collect();
                        Self::Bool(values?)
                    }
                    STRING => {
                        let n = cursor.count(size_of::<u64>() as u64, "strings")?;
                        Self::String((0..n).map(|_| cursor.string()).collect::<Result<_>>()?)
                    }
                    ARRAY if depth == MAX_DEPTH => {
                        let place = &cursor.place;
                        let reason = format!("{place}: arrays are nested over {MAX_DEPTH} deep");
                        return Err(cursor.corrupt(reason));
                    }
                    ARRAY => {
                        let n = cursor.count(ARRAY_HEAD, "arrays")?;
                        let items = (0..n).map(|_| Self::read(cursor, depth + 1));
                        Self::Array(items.collect::<Result<_>>()?)
                    }
                    _ => return Err(unknown(cursor, id)),
                })
            }

            fn write(&self, out: &mut Vec<u8>) {
                let head = |id: u32, n: usize, out: &mut Vec<u8>| {
                    out.extend(id.to_le_bytes());
                    out.extend((n as u64).to_le_bytes());
                };
                match self {
                    $(Self::$variant(values) => {
                        head($id, values.len(), out);
                        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    })*
                    Self::Bool(values) => {
                        head(BOOL, values.len(), out);
                        out.extend(values.iter().map(|value| u8::from(*value)));
                    }
                    Self::String(texts) => {
                        head(STRING, texts.len(), out);
                        texts.iter().for_each(|text| write_string(text, out));
                    }
                    Self::Array(arrays) => {
                        head(ARRAY, arrays.len(), out);
                        arrays.iter().for_each(|array| array.write(out));
                    }
                }
            }

            /// The number of items and their type.
            fn describe(&self) -> (usize, &'static str) {
                match self {
                    $(Self::$variant(values) => (values.len(), stringify!($type)),)*
                    Self::Bool(values) => (values.len(), "truth values"),
                    Self::String(values) => (values.len(), "strings"),
                    Self::Array(values) => (values.len(), "arrays"),
                }
            }
        }
    };
}

values! {
    U8(u8) = 0;
    I8(i8) = 1;
    U16(u16) = 2;
    I16(i16) = 3;
    U32(u32) = 4;
    I32(i32) = 5;
    F32(f32) = 6;
    U64(u64) = 10;
    I64(i64) = 11;
    F64(f64) = 12;
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Array(Array::String(texts))
    }
}

fn unknown(cursor: &Cursor<'_>, id: u32) -> Error {
    cursor.corrupt(format!("{} has the unknown type {id}", cursor.place))
}

/// Appends a string with its length before it.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The metadata of a file.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// The file, for errors.
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(path: PathBuf, values: BTreeMap<String, Value>) -> Self {
        Self { path, values }
    }

    /// A value as `T` ([`FromValue`]): `metadata.get::<&str>("general.architecture")`.
    ///
    /// # Errors
    /// [`Error::GgufKey`] with key, expected and found type, also if there is no such key.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.find(key)?.ok_or_else(|| self.refuse(key, T::EXPECTED, "missing".into()))
    }

    /// Like [`get`](Self::get), for a key that may be missing: `None`.
    ///
    /// # Errors
    /// [`Error::GgufKey`] for a value of another type.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.refuse(key, T::EXPECTED, value.describe())),
        }
    }

    /// All keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn refuse(&self, key: &str, expected: &'static str, found: String) -> Error {
        Error::GgufKey { path: self.path.clone(), key: key.into(), expected, found }
    }
}

/// A type that [`Metadata`] can return. Integers of all widths convert to each other if the number
/// fits, since converters differ in them; so do floats. Integers and floats do not.
pub trait FromValue<'a>: Sized {
    /// What the value must be: "a string".
    const EXPECTED: &'static str;
    /// The value as this type.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_integers {
    ($($type:ty: $expected:literal;)*) => {$(
        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::U8(n) => (*n).try_into().ok(),
                    Value::I8(n) => (*n).try_into().ok(),
                    Value::U16(n) => (*n).try_into().ok(),
                    Value::I16(n) => (*n).try_into().ok(),
                    Value::U32(n) => (*n).try_into().ok(),
                    Value::I32(n) => (*n).try_into().ok(),
                    Value::U64(n) => (*n).try_into().ok(),
                    Value::I64(n) => (*n).try_into().ok(),
                    _ => None,
                }
            }
        }

        impl FromValue<'_> for Vec<$type> {
            const EXPECTED: &'static str = concat!("an array, each item ", $expected);
            fn from_value(value: &Value) -> Option<Self> {
                fn all<N: Copy + TryInto<T>, T>(items: &[N]) -> Option<Vec<T>> {
                    items.iter().map(|n| (*n).try_into().ok()).collect()
                }
                let Value::Array(array) = value else { return None };
                match array {
                    Array::U8(items) => all(items),
                    Array::I8(items) => all(items),
                    Array::U16(items) => all(items),
                    Array::I16(items) => all(items),
                    Array::U32(items) => all(items),
                    Array::I32(items) => all(items),
                    Array::U64(items) => all(items),
                    Array::I64(items) => all(items),
                    _ => None,
                }
            }
        }
    )*};
}

from_integers! {
    u32: "an integer from 0 to 4294967295";
    u64: "an integer of at least 0";
    usize: "an integer of at least 0";
    i64: "an integer";
}

macro_rules! from_values {
    ($($type:ty: $expected:literal, $($pattern:pat => $value:expr),*;)*) => {$(
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    $($pattern => Some($value),)*
                    _ => None,
                }
            }
        }
    )*};
}

from_values! {
    f32: "a float", Value::F32(x) => *x, Value::F64(x) => *x as f32;
    f64: "a float", Value::F32(x) => (*x).into(), Value::F64(x) => *x;
    bool: "a truth value", Value::Bool(x) => *x;
    &'a str: "a string", Value::String(text) => text;
    &'a [String]: "an array of strings", Value::Array(Array::String(texts)) => texts;
    &'a [f32]: "an array of f32", Value::Array(Array::F32(values)) => values;
    &'a [bool]: "an array of truth values", Value::Array(Array::Bool(values)) => values;
    &'a Array: "an array", Value::Array(array) => array;
}

impl<'a> FromValue<'a> for &'a Value {
    const EXPECTED: &'static str = "a value";
    fn from_value(value: &'a Value) -> Option<Self> {
        Some(value)
    }
}
