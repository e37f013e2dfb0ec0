#!/bin/sh
/usr/bin/chdebug-mark 0x4f || :
