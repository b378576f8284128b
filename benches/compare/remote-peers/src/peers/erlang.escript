#!/usr/bin/env escript
%% Two nodes of Erlang's distribution: `serve` answers and counts, `call` measures and prints a line for each figure.
-mode(compile).

-define(ASKS, 20000).
-define(TELLS, 300000).

main(["serve"]) ->
    register(echo, self()),
    %% It ends with whoever started it.
    spawn(fun() -> io:get_line(""), halt(0) end),
    io:format("ready~n"),
    serve(0);
main(["call"]) ->
    Server = {echo, 'server@127.0.0.1'},
    true = net_kernel:connect_node('server@127.0.0.1'),
    Padding = binary:copy(<<7>>, 40),
    _ = asks(Server, Padding, ?ASKS div 10, []),
    Times = lists:sort(asks(Server, Padding, ?ASKS, [])),
    io:format("ask-p50 ~.3f~n", [lists:nth(?ASKS div 2, Times) / 1000]),
    io:format("ask-p99 ~.3f~n", [lists:nth(?ASKS * 99 div 100, Times) / 1000]),
    Began = erlang:monotonic_time(nanosecond),
    tells(Server, Padding, ?TELLS),
    Server ! {count, self()},
    receive {told, ?TELLS} -> ok end,
    Took = erlang:monotonic_time(nanosecond) - Began,
    io:format("tell ~.5f~n", [?TELLS * 1000 / Took]).

%% What `gen_server:call` does, without its process dictionary and its checks: a monitor, a message, an answer.
asks(_, _, 0, Times) ->
    Times;
asks(Server, Padding, Left, Times) ->
    Began = erlang:monotonic_time(nanosecond),
    Monitor = erlang:monitor(process, Server),
    Server ! {ask, self(), Monitor, Left, Padding},
    receive
        {Monitor, Left, _} -> erlang:demonitor(Monitor, [flush]);
        {'DOWN', Monitor, process, _, Why} -> exit(Why)
    end,
    asks(Server, Padding, Left - 1, [erlang:monotonic_time(nanosecond) - Began | Times]).

tells(_, _, 0) ->
    ok;
tells(Server, Padding, Left) ->
    Server ! {told, Left, Padding},
    tells(Server, Padding, Left - 1).

serve(Told) ->
    receive
        {ask, From, Monitor, Number, Padding} ->
            From ! {Monitor, Number, Padding},
            serve(Told);
        {told, _, _} ->
            serve(Told + 1);
        {count, From} ->
            From ! {told, Told},
            serve(Told)
    end.
