#!/bin/sh
/usr/bin/chdebug-mark 0x48 || :
