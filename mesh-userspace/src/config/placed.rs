//! Values that remember where in the file they were written.

use std::{cell::Cell, fmt, ops::Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

/// Why reading a YAML value failed. The library hangs most errors of a scalar on the table around it; the value itself is the better place.
#[derive(Clone, Debug)]
pub struct Failure {
    pub message: String,
    /// As the library tells it, where it does: line and column from 1.
    pub told: Option<(usize, usize)>,
    /// The innermost value with a place.
    pub place: Option<Range<usize>>,
}

thread_local! {
    static FAILED: Cell<Option<Failure>> = const { Cell::new(None) };
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
    FAILED.set(None);
    read()
}

/// The innermost failure of what this thread read last.
pub fn innermost_failure() -> Option<Failure> {
    FAILED.take()
}

/// Splits the place off a message of the YAML library.
pub fn split_place(message: &str) -> (&str, Option<(usize, usize)>) {
    let split = || {
        let (text, place) = message.rsplit_once(" at line ")?;
        let (line, column) = place.trim().split_once(", column ")?;
        Some((text, Some((line.parse().ok()?, column.parse().ok()?))))
    };
    split().unwrap_or((message, None))
}

/// A value, or why it could not be read.
struct Attempt<T>(Result<T, String>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Attempt<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(T::deserialize(d).map_err(|e| e.to_string())))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match READING.get() {
            None => T::deserialize(d).map(Self::from),
            Some(Syntax::Yaml) => {
                let spanned = serde_saphyr::Spanned::<Attempt<T>>::deserialize(d)?;
                let span = spanned.referenced.span();
                let place = span.byte_offset().zip(span.byte_len()).and_then(|(at, len)| {
                    let at = usize::try_from(at).ok()?;
                    Some(at..at.checked_add(usize::try_from(len).ok()?)?)
                });
                match spanned.value.0 {
                    Ok(value) => Ok(Self { value, place }),
                    Err(error) => {
                        let inner = FAILED.take().unwrap_or_else(|| {
                            let (message, told) = split_place(&error);
                            Failure { message: message.to_owned(), told, place }
                        });
                        FAILED.set(Some(inner));
                        Err(de::Error::custom(error))
                    }
                }
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
