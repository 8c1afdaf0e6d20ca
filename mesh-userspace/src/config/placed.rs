//! Values that remember where in the file they were written.

use std::{cell::Cell, fmt, ops::Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a text is written; told by a file's extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syntax {
    /// YAML 1.2, of which JSON is a part.
    Yaml,
    Toml,
}

/// A value with its place in the text, as a range of bytes. A value that came by another way (API, state file) has no place.
#[derive(Clone, Debug, Default)]
pub struct Placed<T> {
    pub value: T,
    pub place: Option<Range<usize>>,
}

thread_local! {
    /// The syntax that this thread reads now. Each library hands out places through a wrapper of its own, and a `Deserialize` isn't told which
    /// library calls it.
    static READING: Cell<Option<Syntax>> = const { Cell::new(None) };
}

/// Runs `read` with the places of `syntax` switched on.
pub fn with_places<T>(syntax: Syntax, read: impl FnOnce() -> T) -> T {
    struct Reset(Option<Syntax>);
    impl Drop for Reset {
        fn drop(&mut self) {
            READING.set(self.0);
        }
    }
    let _reset = Reset(READING.replace(Some(syntax)));
    read()
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match READING.get() {
            None => T::deserialize(d).map(Self::from),
            Some(Syntax::Yaml) => {
                let spanned = serde_saphyr::Spanned::<T>::deserialize(d)?;
                let span = spanned.referenced.span();
                let place = span.byte_offset().zip(span.byte_len()).and_then(|(at, len)| {
                    let at = usize::try_from(at).ok()?;
                    Some(at..at.checked_add(usize::try_from(len).ok()?)?)
                });
                Ok(Self { value: spanned.value, place })
            }
            Some(Syntax::Toml) => {
                let spanned = toml::Spanned::<T>::deserialize(d)?;
                let place = Some(spanned.span());
                Ok(Self { value: spanned.into_inner(), place })
            }
        }
    }
}

impl<T: Serialize> Serialize for Placed<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(s)
    }
}

impl<T> From<T> for Placed<T> {
    fn from(value: T) -> Self {
        Self { value, place: None }
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    /// The same value, wherever it stands.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Placed<T> {}

impl<T: fmt::Display> fmt::Display for Placed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}
