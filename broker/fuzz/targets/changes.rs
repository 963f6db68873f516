#![no_main]
ringq_fuzz::program!(nsqd::fuzz::CHANGES);
