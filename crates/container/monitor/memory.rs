//! The functions that the compiler takes for granted on every target, and that libc would bring.
//!
//! Byte by byte: no output passes through them. The accesses are volatile so that the compiler does not see the very
//! function in the loop and calls it.

use core::{
    ffi::{c_char, c_int, c_void},
    ptr::{read_volatile, write_volatile},
};

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, length: usize) -> *mut c_void {
    for index in 0..length {
        // SAFETY: the caller gives two areas of `length` bytes that do not overlap.
        unsafe { write_volatile(to.cast::<u8>().add(index), read_volatile(from.cast::<u8>().add(index))) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, length: usize) -> *mut c_void {
    let backwards = to.addr() > from.addr();
    for step in 0..length {
        let index = if backwards { length - 1 - step } else { step };
        // SAFETY: the caller gives two areas of `length` bytes. Where they overlap, a byte is read before it is written.
        unsafe { write_volatile(to.cast::<u8>().add(index), read_volatile(from.cast::<u8>().add(index))) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, byte: c_int, length: usize) -> *mut c_void {
    for index in 0..length {
        // SAFETY: the caller gives an area of `length` bytes.
        unsafe { write_volatile(to.cast::<u8>().add(index), byte as u8) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const c_void, right: *const c_void, length: usize) -> c_int {
    for index in 0..length {
        // SAFETY: the caller gives two areas of `length` bytes.
        let (left, right) =
            unsafe { (read_volatile(left.cast::<u8>().add(index)), read_volatile(right.cast::<u8>().add(index))) };
        if left != right {
            return c_int::from(left) - c_int::from(right);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const c_void, right: *const c_void, length: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller gives a string that ends with NUL.
    while unsafe { read_volatile(text.add(length)) } != 0 {
        length += 1;
    }
    length
}
