//! Bounds for decoding formats that trust the lengths in a payload: how deep values are nested, how many elements sequences have, and how
//! much is reserved for them. It never reads a byte itself.

use super::codec::Cause;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// How deep values may be nested; the same as in `serde_json`.
const DEPTH_MAX: u32 = 128;

/// Elements of sequences and maps that a payload may have beyond one for each of its bytes: elements without bytes, such as `()`.
const EMPTY_ELEMENTS_MAX: usize = 64 * 1024;

/// What is left of the bounds while one payload is decoded.
pub(super) struct Bounds {
    depth: Cell<u32>,
    elements: Cell<usize>,
    /// Elements for which room can be reserved in advance. Each takes at least a byte of the payload, so a valid one never runs out.
    reservable: Cell<usize>,
    exceeded: Cell<Option<Exceeded>>,
}

/// A bound that a payload exceeds. Not every format keeps the text of an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("values are nested more than {DEPTH_MAX} levels deep")]
    Depth,
    #[error("there are more elements than the payload has bytes for")]
    Elements,
}

impl Bounds {
    pub(super) fn of(payload: &[u8]) -> Self {
        Self {
            depth: Cell::new(DEPTH_MAX),
            elements: Cell::new(payload.len().saturating_add(EMPTY_ELEMENTS_MAX)),
            reservable: Cell::new(payload.len()),
            exceeded: Cell::new(None),
        }
    }

    /// What decodes a value within these bounds.
    pub(super) fn seed<T>(&self) -> Seed<'_, T> {
        Seed { bounds: self, value: PhantomData }
    }

    /// The cause of a failure: a bound that was exceeded, or what the format reports.
    pub(super) fn cause(&self, error: impl Into<Cause>) -> Cause {
        self.exceeded.get().map_or_else(|| error.into(), Into::into)
    }

    fn exceed<E: Error>(&self, bound: Exceeded) -> E {
        self.exceeded.set(Some(bound));
        E::custom(bound)
    }

    /// Takes one level for as long as `nested` runs.
    fn nest<T, E: Error>(&self, nested: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let Some(rest) = self.depth.get().checked_sub(1) else { return Err(self.exceed(Exceeded::Depth)) };
        self.depth.set(rest);
        let result = nested();
        self.depth.set(rest + 1);
        result
    }

    fn take_element<E: Error>(&self) -> Result<(), E> {
        let Some(rest) = self.elements.get().checked_sub(1) else { return Err(self.exceed(Exceeded::Elements)) };
        self.elements.set(rest);
        Ok(())
    }

    fn reserve(&self, elements: Option<usize>) -> Option<usize> {
        let elements = elements?.min(self.reservable.get());
        self.reservable.set(self.reservable.get() - elements);
        Some(elements)
    }
}

/// Decodes one value within its bounds.
pub(super) struct Seed<'b, T> {
    bounds: &'b Bounds,
    value: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(self.bounds.keep(deserializer))
    }
}

/// A deserializer, visitor, seed or access, and the bounds that it keeps.
struct Bounded<'b, I> {
    inner: I,
    bounds: &'b Bounds,
    /// The payload states how many elements there are, rather than the type.
    counted: bool,
}

impl Bounds {
    fn keep<I>(&self, inner: I) -> Bounded<'_, I> {
        Bounded { inner, bounds: self, counted: false }
    }

    fn count<I>(&self, inner: I) -> Bounded<'_, I> {
        Bounded { inner, bounds: self, counted: true }
    }
}

/// Calls with nothing but a visitor.
macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(self.bounds.keep(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_bytes deserialize_option deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(self.bounds.count(visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(self.bounds.count(visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(self.bounds.count(visitor))
    }

    /// As a borrowed string: the format then takes the bytes from the payload, rather than memory for a length that it only claims.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_str(visitor)
    }

    /// As [`deserialize_string`](Self::deserialize_string).
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, self.bounds.keep(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, self.bounds.keep(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, self.bounds.keep(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, self.bounds.keep(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, self.bounds.keep(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, self.bounds.keep(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Visits of plain values.
macro_rules! visit {
    ($($method:ident($value:ty))*) => {$(
        fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Bounded<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128) visit_u8(u8)
        visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64) visit_char(char)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self { inner: visitor, bounds, .. } = self;
        bounds.nest(|| visitor.visit_some(bounds.keep(inner)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Self { inner: visitor, bounds, .. } = self;
        bounds.nest(|| visitor.visit_newtype_struct(bounds.keep(inner)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { inner: visitor, bounds, counted } = self;
        bounds.nest(|| visitor.visit_seq(Bounded { inner, bounds, counted }))
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { inner: visitor, bounds, counted } = self;
        bounds.nest(|| visitor.visit_map(Bounded { inner, bounds, counted }))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { inner: visitor, bounds, .. } = self;
        bounds.nest(|| visitor.visit_enum(bounds.keep(inner)))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.bounds.keep(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let element = self.inner.next_element_seed(self.bounds.keep(seed))?;
        if self.counted && element.is_some() {
            self.bounds.take_element()?;
        }
        Ok(element)
    }

    fn size_hint(&self) -> Option<usize> {
        self.bounds.reserve(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let key = self.inner.next_key_seed(self.bounds.keep(seed))?;
        if self.counted && key.is_some() {
            self.bounds.take_element()?;
        }
        Ok(key)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(self.bounds.keep(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.bounds.reserve(self.inner.size_hint())
    }
}

impl<'b, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<'b, A> {
    type Error = A::Error;
    type Variant = Bounded<'b, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let bounds = self.bounds;
        let (value, variant) = self.inner.variant_seed(bounds.keep(seed))?;
        Ok((value, bounds.keep(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(self.bounds.keep(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, self.bounds.keep(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, self.bounds.keep(visitor))
    }
}

#[cfg(all(test, feature = "bincode"))]
mod tests {
    use super::*;
    use crate::typed::{Bincode, Codec};

    /// How many elements a sequence announces. They are not read.
    #[derive(Debug, PartialEq)]
    struct Announced(Option<usize>);

    impl<'de> Deserialize<'de> for Announced {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(Self(None))
        }
    }

    impl<'de> Visitor<'de> for Announced {
        type Value = Self;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self, A::Error> {
            Ok(Self(list.size_hint()))
        }
    }

    #[test]
    fn no_more_is_announced_than_the_payload_has_bytes_for() {
        let claim = [0xfc, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(Bincode::decode::<Announced>(&claim).ok(), Some(Announced(Some(5))));
        let bounds = Bounds::of(&claim);
        assert_eq!([3, 255, 1].map(|claim| bounds.reserve(Some(claim))), [3, 2, 0].map(Some), "in total");
        assert_eq!(bounds.reserve(None), None);
    }
}
