# needs: make xargs parallel
# Many processes at once: make's job server, xargs -P, GNU parallel, and keeping their output apart.
{
    echo 'all: $(patsubst %,out/%,$(shell seq 60))'
    printf '\t@cat out/* | sort -n | sha256sum\n'
    printf 'out/%%:\n\t@mkdir -p out; echo $* >$@; $(MAKE) -s -f sub.mk N=$*\n'
} >Makefile
printf 'all: a b\na b:\n\t@echo $@ $(N) >>log.$(N)\n' >sub.mk
make -j8; cat log.* | wc -l
seq 200 | xargs -P 8 -n 1 sh -c 'echo $(($0 * 2)); exit 0' | sort -n | sha256sum
seq 20 | xargs -P 4 -n 1 sh -c 'exit $(($0 % 5))'; echo "xargs $?"
export PARALLEL_HOME=$PWD/.parallel; mkdir -p .parallel; touch .parallel/will-cite
seq 40 | parallel -j 8 -k 'echo {} {#}; sleep 0.0{%}' | sha256sum
parallel -j 4 --halt soon,fail=1 'exit {}' ::: 0 0 3 0; echo "parallel $?"
seq 1000 | parallel --pipe -N 100 -j 4 -k wc -l | sort | uniq -c
parallel -j 2 --joblog jobs.log --retries 2 'test {} -lt 3' ::: 1 2 3; echo "parallel $?"; wc -l <jobs.log
