#![no_main]
ringq_fuzz::program!(nsqlookupd::fuzz::LOOKUP_HTTP);
