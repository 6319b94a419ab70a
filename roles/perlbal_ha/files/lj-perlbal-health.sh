#!/bin/sh
# Whether the balancer whose health page is $1 should have the floating addresses; it may take
# $2 seconds to say so.
exec curl --silent --fail --max-time "$2" --output /dev/null "$1"
