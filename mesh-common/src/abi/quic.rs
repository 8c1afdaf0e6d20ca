/// Most bytes that a server id has.
pub const QUIC_ID_MOST: u8 = 4;

/// What a backend is found by in [`super::map::QUIC_IDS`]: `server id:32 | bytes of it:8 | service:24`, from the low end. An id is written in the order of the
/// network: of two bytes `01 02` it is 0x0102.
pub const fn quic_key(service: u32, length: u8, id: u32) -> u64 {
    (service as u64 & 0xff_ffff) << 40 | (length as u64) << 32 | id as u64
}

/// Bytes of the server id in such a key.
pub const fn quic_length(key: u64) -> u8 {
    (key >> 32) as u8
}

/// Id of the service in such a key.
pub const fn quic_service(key: u64) -> u32 {
    (key >> 40) as u32
}
