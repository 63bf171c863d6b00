//! An EROFS image read through cookies.
