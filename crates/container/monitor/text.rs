//! Numbers as text, without `core::fmt`, which would be most of the program.

use core::ffi::CStr;

/// A decimal number, nothing around it.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// A short text that is built piece by piece. What does not fit is left out.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            // The last byte stays NUL, for `c_str`.
            if self.length + 1 < N
                && let Some(place) = self.bytes.get_mut(self.length)
            {
                *place = byte;
                self.length += 1;
            }
        }
        self
    }

    pub fn push_number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut start = digits.len();
        for place in digits.iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            start -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(digits.get(start..).unwrap_or_default())
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    pub fn c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}
