//! The part of `CONFIG` that is set at a start: the hash key, and how to translate.

use std::{fs::File, io::Read};

use mesh_common::{
    abi::{Config, NatConfig},
    flow_log,
};

use super::{error::DataplaneError, image::Image, source_ports};

const HASH_KEY: usize = std::mem::offset_of!(Config, hash_key) / 8;
const SAMPLES: usize = std::mem::offset_of!(Config, sample_mask) / 8;

/// Sets the hash key, the samples (one flow in `flow_sample` is told of) and the translation. Without a `key` the one that is there stays, for every flow hangs on it; where there is none, one is
/// drawn.
pub fn publish(image: &Image, key: Option<[u64; 2]>, flow_sample: u32, config: &NatConfig) -> Result<(), DataplaneError> {
    let current: Vec<u64> = image.config.run(0, HASH_KEY, 2).collect();
    let unset = current.iter().all(|word| *word == 0);
    let key = match key {
        Some(key) => key,
        None if unset => draw()?,
        None => [current[0], current[1]],
    };
    if !unset && key[..] != current[..] {
        log::warn!("the hash key has changed: flows are spread anew, and translated ones break");
    }
    image.config.set_run(0, HASH_KEY, key);
    let samples = u64::from(Config::SAMPLE_MASK) | u64::from(flow_log::sample(flow_sample)) << 32;
    image.config.set_word(0, SAMPLES, samples);
    source_ports::publish(image, config);
    Ok(())
}

/// Has handshakes of one flow of 4 watched, and not of one of 16: where more hangs on them.
pub fn watch_many(image: &Image, many: bool) {
    let word = image.config.word(0, SAMPLES);
    let mask = if many { Config::TIMED_MASK } else { Config::SAMPLE_MASK };
    image.config.set_word(0, SAMPLES, word >> 32 << 32 | u64::from(mask));
}

/// The hash key that packets go by.
pub fn hash_key(image: &Image) -> [u64; 2] {
    [image.config.word(0, HASH_KEY), image.config.word(0, HASH_KEY + 1)]
}

fn draw() -> Result<[u64; 2], DataplaneError> {
    let mut bytes = [0; 16];
    let drawn = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    drawn.map_err(|source| DataplaneError::System { what: "draw a hash key", source })?;
    let (a, b) = bytes.split_at(8);
    Ok([a, b].map(|half| u64::from_ne_bytes(half.try_into().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_drawn_once_and_kept() {
        let image = Image::heap(32, 4, 64, 16, 64);
        let read = || image.config.run(0, HASH_KEY, 2).collect::<Vec<_>>();
        publish(&image, None, 0, &NatConfig::default()).unwrap();
        let drawn = read();
        assert!(drawn.iter().any(|word| *word != 0));
        publish(&image, None, 100, &NatConfig { flows: 7, ..NatConfig::default() }).unwrap();
        assert_eq!(read(), drawn);
        publish(&image, Some([1, 2]), 1, &NatConfig::default()).unwrap();
        assert_eq!(read(), [1, 2]);
        assert_eq!(image.config.word(0, 0), 0);
        let config = image.config.get(0);
        assert_eq!((config.sample_mask, config.flow_sample), (Config::SAMPLE_MASK, 1 << 31));
        watch_many(&image, true);
        let config = image.config.get(0);
        assert_eq!((config.sample_mask, config.flow_sample), (Config::TIMED_MASK, 1 << 31));
        watch_many(&image, false);
        assert_eq!(image.config.get(0).sample_mask, Config::SAMPLE_MASK);
    }
}
